/*
 * commands.h
 *	  The program's commands: each takes argc and argv from its own name on and
 *	  returns the exit status.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_COMMANDS_H
#define PGDR_COMMANDS_H

extern int	agent_main(int argc, char **argv);
extern int	drill_main(int argc, char **argv);
extern int	key_main(int argc, char **argv);
extern int	list_main(int argc, char **argv);
extern int	restore_main(int argc, char **argv);
extern int	verify_main(int argc, char **argv);
extern int	wal_get_main(int argc, char **argv);

/* Exit statuses of wal-get: "not there", and "abort recovery" (above 125). */
#define EXIT_NOT_THERE		1
#define EXIT_ABORT			200

/* Print what is wrong with the arguments and how to learn more; returns EXIT_FAILURE. */
extern int	usage_error(const char *command, const char *fmt,...) __attribute__((format(printf, 2, 3)));

#endif							/* PGDR_COMMANDS_H */
