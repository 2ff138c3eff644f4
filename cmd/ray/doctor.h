/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_RAY_DOCTOR_H
#define CMD_RAY_DOCTOR_H

/* `ray doctor`: what this machine is like and what would keep Ray from working on it. The exit
 * status: 0, or 1 if something needs the user's hand. */
int doctor_main(int argc, char **argv);

#endif /* CMD_RAY_DOCTOR_H */
