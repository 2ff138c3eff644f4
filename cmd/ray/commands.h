/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_RAY_COMMANDS_H
#define CMD_RAY_COMMANDS_H

#define COMMAND_VERSION "ray-c 0.1"

/* Subcommands of `ray` that have no header of their own: each in the file of its name,
 * the last in health_check.c. argv[0] is
 * the subcommand; the exit status. */
int start_main(int argc, char **argv);
int stop_main(int argc, char **argv);
int config_main(int argc, char **argv);
int get_auth_token_main(int argc, char **argv);
int status_main(int argc, char **argv);
int list_main(int argc, char **argv);
int why_main(int argc, char **argv);
int health_check_main(int argc, char **argv);
/* The supervisor's: its raylet died, and could not say so itself. */
int unregister_main(int argc, char **argv);

#endif /* CMD_RAY_COMMANDS_H */
