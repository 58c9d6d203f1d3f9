/*
 * limit.c
 *	  The bare cost of a sealed backup: read, zstd, AES-256-GCM in chunks of 16 KiB,
 *	  SHA-256 of what would be stored.  No repository, no manifest, no page checks:
 *	  what no tool with this work to do can beat.
 *
 *	  limit DIRECTORY THREADS LEVEL  ->  wall s, CPU s, bytes read, bytes out, tab-separated
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include <openssl/evp.h>
#include <zstd.h>

#define FRAME	(1 << 20)
#define CHUNK	16384

static char **paths;
static size_t npaths, room, next_path;
static int	level;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned long long bytes_in, bytes_out;

static int
remember(const char *path, const struct stat *st, int type, struct FTW *where)
{
	if (type == FTW_F && !strstr(path, "/pg_wal/"))
	{
		if (npaths == room)
			paths = realloc(paths, (room = room * 2 + 1024) * sizeof(*paths));
		paths[npaths++] = strdup(path);
	}
	return 0;
}

static void *
work(void *unused)
{
	size_t		bound = ZSTD_compressBound(FRAME);
	unsigned char *raw = malloc(FRAME), *packed = malloc(bound), sealed[CHUNK], key[32] = {1}, nonce[12] = {0}, tag[16], sha[32];
	ZSTD_CCtx  *zstd = ZSTD_createCCtx();
	EVP_CIPHER_CTX *gcm = EVP_CIPHER_CTX_new();
	EVP_MD_CTX *hash = EVP_MD_CTX_new();
	unsigned long long in = 0, out = 0;

	EVP_EncryptInit_ex(gcm, EVP_aes_256_gcm(), NULL, key, nonce);
	EVP_DigestInit_ex(hash, EVP_sha256(), NULL);
	for (;;)
	{
		size_t		mine;
		ssize_t		got;
		int			fd;

		pthread_mutex_lock(&lock);
		mine = next_path++;
		pthread_mutex_unlock(&lock);
		if (mine >= npaths)
			break;
		if ((fd = open(paths[mine], O_RDONLY)) < 0)
			continue;
		while ((got = read(fd, raw, FRAME)) > 0)
		{
			size_t		size = ZSTD_compressCCtx(zstd, packed, bound, raw, got, level);
			int			ignored;

			if (ZSTD_isError(size))
				abort();
			for (size_t at = 0; at < size; at += CHUNK)
			{
				int			n = size - at < CHUNK ? size - at : CHUNK;

				nonce[11]++;
				EVP_EncryptInit_ex(gcm, NULL, NULL, NULL, nonce);
				EVP_EncryptUpdate(gcm, sealed, &ignored, packed + at, n);
				EVP_EncryptFinal_ex(gcm, sealed, &ignored);
				EVP_CIPHER_CTX_ctrl(gcm, EVP_CTRL_GCM_GET_TAG, 16, tag);
				EVP_DigestUpdate(hash, sealed, n);
				EVP_DigestUpdate(hash, tag, 16);
			}
			in += got;
			out += size + 16 * (size / CHUNK + 1);
		}
		close(fd);
	}
	EVP_DigestFinal_ex(hash, sha, NULL);
	pthread_mutex_lock(&lock);
	bytes_in += in;
	bytes_out += out;
	pthread_mutex_unlock(&lock);
	return NULL;
}

int
main(int argc, char **argv)
{
	int			threads = argc == 4 ? atoi(argv[2]) : 0;
	pthread_t	thread[64];
	struct timespec from, to;
	struct rusage used;

	if (threads < 1 || threads > 64)
		return fprintf(stderr, "usage: limit DIRECTORY THREADS LEVEL\n"), 2;
	level = atoi(argv[3]);
	clock_gettime(CLOCK_MONOTONIC, &from);
	if (nftw(argv[1], remember, 64, FTW_PHYS) != 0)
		return perror(argv[1]), 1;
	for (int i = 0; i < threads; i++)
		pthread_create(&thread[i], NULL, work, NULL);
	for (int i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	clock_gettime(CLOCK_MONOTONIC, &to);
	getrusage(RUSAGE_SELF, &used);
	printf("%.3f\t%.3f\t%llu\t%llu\n",
		   (to.tv_sec - from.tv_sec) + (to.tv_nsec - from.tv_nsec) / 1e9,
		   used.ru_utime.tv_sec + used.ru_utime.tv_usec / 1e6 + used.ru_stime.tv_sec + used.ru_stime.tv_usec / 1e6,
		   bytes_in, bytes_out);
	return 0;
}
