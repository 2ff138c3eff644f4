/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/assert.h"

#include <stdio.h>
#include <stdlib.h>

_Noreturn void assert_fail(const char *file, int line, const char *expression)
{
    fprintf(stderr, "broken: %s:%d: assertion failed: %s\n", file, line, expression);
    abort();
}
