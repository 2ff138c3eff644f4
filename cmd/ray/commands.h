/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_RAY_COMMANDS_H
#define CMD_RAY_COMMANDS_H

/* Subcommands of `ray` that have no header of their own: each in the file of its name. argv[0] is
 * the subcommand; the exit status. */
int start_main(int argc, char **argv);
int stop_main(int argc, char **argv);
int config_main(int argc, char **argv);
int get_auth_token_main(int argc, char **argv);

#endif /* CMD_RAY_COMMANDS_H */
