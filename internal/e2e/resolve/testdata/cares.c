// SPDX-License-Identifier: Apache-2.0
//go:build ignore

// Resolves names with c-ares: cares SERVERS NAME…, SERVERS as a comma-separated
// list. It prints one line per name: the name and its addresses.
#include <ares.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/select.h>

static int failed;

static void done(void *arg, int status, int timeouts, struct ares_addrinfo *res)
{
	printf("%s", (const char *)arg);
	if (status != ARES_SUCCESS) {
		printf(" error: %s\n", ares_strerror(status));
		failed = 1;
		return;
	}
	for (struct ares_addrinfo_node *n = res->nodes; n; n = n->ai_next) {
		char host[INET6_ADDRSTRLEN];
		const void *addr = &((struct sockaddr_in *)n->ai_addr)->sin_addr;

		if (n->ai_family == AF_INET6)
			addr = &((struct sockaddr_in6 *)n->ai_addr)->sin6_addr;
		printf(" %s", inet_ntop(n->ai_family, addr, host, sizeof(host)));
	}
	printf("\n");
	ares_freeaddrinfo(res);
	(void)timeouts;
}

int main(int argc, char **argv)
{
	ares_channel channel;

	if (argc < 3 || ares_library_init(ARES_LIB_INIT_ALL) || ares_init(&channel) ||
	    ares_set_servers_csv(channel, argv[1])) {
		fprintf(stderr, "usage: cares SERVERS NAME...\n");
		return 2;
	}
	for (int i = 2; i < argc; i++) {
		struct ares_addrinfo_hints hints = {.ai_family = AF_UNSPEC};

		ares_getaddrinfo(channel, argv[i], NULL, &hints, done, argv[i]);
	}
	for (;;) {
		fd_set r, w;
		struct timeval tv, *t;

		FD_ZERO(&r);
		FD_ZERO(&w);
		int n = ares_fds(channel, &r, &w);

		if (n == 0)
			break;
		t = ares_timeout(channel, NULL, &tv);
		select(n, &r, &w, NULL, t);
		ares_process(channel, &r, &w);
	}
	ares_destroy(channel);
	return failed;
}
