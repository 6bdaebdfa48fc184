// SPDX-License-Identifier: Apache-2.0
//go:build ignore

// Resolves each of its arguments by getaddrinfo, as libc programs do, and prints one line
// per name: the name and its addresses. The time goes to stderr.
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static long long us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

int main(int argc, char **argv)
{
	int failed = 0;

	for (int i = 1; i < argc; i++) {
		struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *res;
		long long start = us();
		int err = getaddrinfo(argv[i], NULL, &hints, &res);

		fprintf(stderr, "%s %lld us\n", argv[i], us() - start);
		printf("%s", argv[i]);
		if (err) {
			printf(" error: %s\n", gai_strerror(err));
			failed = 1;
			continue;
		}
		for (struct addrinfo *ai = res; ai; ai = ai->ai_next) {
			char host[64];

			getnameinfo(ai->ai_addr, ai->ai_addrlen, host, sizeof(host), NULL, 0,
				    NI_NUMERICHOST);
			printf(" %s", host);
		}
		printf("\n");
		freeaddrinfo(res);
	}
	return failed;
}
