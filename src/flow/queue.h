/*
 * queue.h
 *	  A bounded queue of pointers between threads: the belt of every conveyor.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_QUEUE_H
#define PGDR_QUEUE_H

#include <pthread.h>

#include "postgres_fe.h"

typedef struct Queue
{
	pthread_mutex_t lock;
	pthread_cond_t changed;
	void	  **items;
	size_t		cap;
	size_t		head;
	size_t		n;
	bool		closed;			/* nothing more comes */
	bool		aborted;		/* nobody wants it any more */
} Queue;

extern void queue_init(Queue *q, size_t cap);
extern void queue_destroy(Queue *q);

/* Waits for room.  False: the queue was aborted and the item stays the caller's. */
extern bool queue_push(Queue *q, void *item);

/* Never waits; the item is the next to be popped: a used buffer is still in the processor's cache. */
extern void queue_give_back(Queue *q, void *item);

/* Waits for an item.  NULL: closed and empty, or aborted. */
extern void *queue_pop(Queue *q);

extern void queue_close(Queue *q);
extern void queue_abort(Queue *q);

#endif							/* PGDR_QUEUE_H */
