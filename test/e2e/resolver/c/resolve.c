/*
 * What a C library's resolver makes of names, as lines that all the resolvers beside it print alike:
 *
 *   resolve names NAME...      a line "ip NAME RESULT", "ip4 ...", "ip6 ..." each: sorted addresses, or "none"
 *   resolve srv NAME           "srv NAME target:port,..."
 *   resolve ptr ADDRESS        "ptr ADDRESS name"
 *   resolve pairs COUNT NAME   "pairs COUNT failed slow longest": A and AAAA COUNT times; slow is more than a second, longest in us
 *
 * Built with glibc and, statically, with musl.
 */
#define _GNU_SOURCE /* EAI_NODATA */
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <netdb.h>
#include <resolv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum { MAX_RESULTS = 128 };

static char results[MAX_RESULTS][NI_MAXHOST + 16];
static int count;

static int compare(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* sorted and without repetition: glibc and musl list an address once for each socket type where none is asked for */
static void print_results(const char *kind, const char *name)
{
	qsort(results, count, sizeof(results[0]), compare);
	printf("%s %s ", kind, name);
	for (int i = 0; i < count; i++)
		printf("%s%s", i ? "," : "", results[i]);
	printf("%s\n", count ? "" : "none");
}

static int resolve(const char *name, int family)
{
	struct addrinfo hints = { .ai_family = family, .ai_socktype = SOCK_STREAM }, *list, *a;
	int err = getaddrinfo(name, NULL, &hints, &list);

	count = 0;
	if (err)
		return err;
	for (a = list; a && count < MAX_RESULTS; a = a->ai_next)
		getnameinfo(a->ai_addr, a->ai_addrlen, results[count++], sizeof(results[0]), NULL, 0, NI_NUMERICHOST);
	freeaddrinfo(list);
	return 0;
}

/* a name without records is none, whether it exists or not: the libraries do not agree on telling these apart */
static int is_none(int err)
{
#ifdef EAI_NODATA
	if (err == EAI_NODATA)
		return 1;
#endif
	return err == EAI_NONAME;
}

static void names(const char *name)
{
	static const struct { const char *kind; int family; } kinds[] = { { "ip", AF_UNSPEC }, { "ip4", AF_INET }, { "ip6", AF_INET6 } };

	for (int i = 0; i < 3; i++) {
		int err = resolve(name, kinds[i].family);

		if (err && !is_none(err))
			printf("%s %s error:%d\n", kinds[i].kind, name, err);
		else
			print_results(kinds[i].kind, name);
	}
}

static void srv(const char *name)
{
	unsigned char answer[4096];
	char target[NI_MAXHOST];
	ns_msg msg;
	ns_rr rr;
	int len = res_search(name, C_IN, T_SRV, answer, sizeof(answer));

	count = 0;
	if (len > 0 && !ns_initparse(answer, len, &msg)) {
		for (int i = 0; i < ns_msg_count(msg, ns_s_an) && count < MAX_RESULTS; i++) {
			if (ns_parserr(&msg, ns_s_an, i, &rr) || ns_rr_type(rr) != T_SRV)
				continue;
			if (dn_expand(answer, answer + len, ns_rr_rdata(rr) + 6, target, sizeof(target)) >= 0)
				snprintf(results[count++], sizeof(results[0]), "%s:%d", target, ns_get16(ns_rr_rdata(rr) + 4));
		}
	}
	print_results("srv", name);
}

static void ptr(const char *text)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
	struct sockaddr *addr = (struct sockaddr *)&v4;
	socklen_t len = sizeof(v4);

	if (inet_pton(AF_INET6, text, &v6.sin6_addr) == 1) {
		addr = (struct sockaddr *)&v6;
		len = sizeof(v6);
	} else {
		inet_pton(AF_INET, text, &v4.sin_addr);
	}
	count = getnameinfo(addr, len, results[0], sizeof(results[0]), NULL, 0, NI_NAMEREQD) == 0;
	print_results("ptr", text);
}

static long now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void pairs(int times, const char *name)
{
	long longest = 0;
	int failed = 0, slow = 0;

	for (int i = 0; i < times; i++) {
		long began = now_us(), took;

		failed += resolve(name, AF_UNSPEC) != 0;
		took = now_us() - began;
		slow += took > 1000000;
		longest = took > longest ? took : longest;
	}
	printf("pairs %d %d %d %ld\n", times, failed, slow, longest);
}

int main(int argc, char **argv)
{
	if (argc >= 3 && !strcmp(argv[1], "names"))
		for (int i = 2; i < argc; i++)
			names(argv[i]);
	else if (argc == 3 && !strcmp(argv[1], "srv"))
		srv(argv[2]);
	else if (argc == 3 && !strcmp(argv[1], "ptr"))
		ptr(argv[2]);
	else if (argc == 4 && !strcmp(argv[1], "pairs"))
		pairs(atoi(argv[2]), argv[3]);
	else
		return 2;
	return 0;
}
