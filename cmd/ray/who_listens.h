/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_RAY_WHO_LISTENS_H
#define CMD_RAY_WHO_LISTENS_H

#include <stdio.h>

/* Who has this TCP port of this machine, as far as /proc tells, and what to do about it: a line
 * each. Nothing if nobody listens there. */
void who_listens(FILE *out, int port);

#endif /* CMD_RAY_WHO_LISTENS_H */
