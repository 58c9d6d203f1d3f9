/*
 * queue.c
 *	  A bounded queue of pointers between threads.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/queue.h"

void
queue_init(Queue *q, size_t cap)
{
	memset(q, 0, sizeof(*q));
	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->changed, NULL);
	q->items = pg_malloc(sizeof(void *) * cap);
	q->cap = cap;
}

void
queue_destroy(Queue *q)
{
	pthread_mutex_destroy(&q->lock);
	pthread_cond_destroy(&q->changed);
	free(q->items);
}

bool
queue_push(Queue *q, void *item)
{
	bool		ok;

	pthread_mutex_lock(&q->lock);
	while (q->n == q->cap && !q->aborted)
		pthread_cond_wait(&q->changed, &q->lock);
	ok = !q->aborted;
	if (ok)
	{
		q->items[(q->head + q->n++) % q->cap] = item;
		pthread_cond_broadcast(&q->changed);
	}
	pthread_mutex_unlock(&q->lock);
	return ok;
}

void
queue_give_back(Queue *q, void *item)
{
	pthread_mutex_lock(&q->lock);
	Assert(q->n < q->cap);
	q->head = (q->head + q->cap - 1) % q->cap;
	q->items[q->head] = item;
	q->n++;
	pthread_cond_broadcast(&q->changed);
	pthread_mutex_unlock(&q->lock);
}

void *
queue_pop(Queue *q)
{
	void	   *item = NULL;

	pthread_mutex_lock(&q->lock);
	while (q->n == 0 && !q->closed && !q->aborted)
		pthread_cond_wait(&q->changed, &q->lock);
	if (q->n > 0 && !q->aborted)
	{
		item = q->items[q->head];
		q->head = (q->head + 1) % q->cap;
		q->n--;
		pthread_cond_broadcast(&q->changed);
	}
	pthread_mutex_unlock(&q->lock);
	return item;
}

static void
queue_end(Queue *q, bool *flag)
{
	pthread_mutex_lock(&q->lock);
	*flag = true;
	pthread_cond_broadcast(&q->changed);
	pthread_mutex_unlock(&q->lock);
}

void
queue_close(Queue *q)
{
	queue_end(q, &q->closed);
}

void
queue_abort(Queue *q)
{
	queue_end(q, &q->aborted);
}
