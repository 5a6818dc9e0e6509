/* The limit: the speed of five servers and one process without a library.
 *
 * A pair is SET NX PX on all sockets at once, all replies, the compare-and-delete script by EVALSHA on all sockets at
 * once, all replies. There is no fence, no record, no decision and no late reply. The program has the commands
 * `connect` and `cycle` of the other peers (benchmarks/worker.py).
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST 9
#define SCRIPT "if redis.call('get',KEYS[1]) == ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end"

static int sockets[MOST], nodes;
static char sha[41];
static double times[4000000];

static void fail(const char *why) {
    fprintf(stderr, "limit: %s\n", why);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static double cpu(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

/* A reply to the end of its line: every reply here is one line, but that of SCRIPT LOAD, which has two. */
static void reply(int sock, char *text, int size, int lines) {
    for (int length = 0, seen = 0; seen < lines;) {
        int got = recv(sock, text + length, size - 1 - length, 0);
        if (got <= 0) fail("a node closed the connection");
        for (int i = 0; i < got; i++) seen += text[length + i] == '\n';
        length += got;
        text[length] = 0;
    }
}

static void on_all(const char *words, int length, const char *wanted) {
    char text[256];
    for (int i = 0; i < nodes; i++)
        if (send(sockets[i], words, length, 0) != length) fail("a node takes no more");
    for (int i = 0; i < nodes; i++) {
        reply(sockets[i], text, sizeof text, 1);
        if (strncmp(text, wanted, strlen(wanted))) fail(text);
    }
}

static void connect_all(const char *line) {
    const char *place = line, *end = strchr(line, ']');
    char words[512], text[256];
    for (nodes = 0; nodes < MOST && (place = strstr(place, "redis://127.0.0.1:")) && place < end; nodes++) {
        place += strlen("redis://127.0.0.1:");
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(place))};
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        int one = 1, sock = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(sock, (struct sockaddr *)&address, sizeof address)) fail("a node can't be reached");
        setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        int length = snprintf(words, sizeof words, "*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$%zu\r\n%s\r\n", strlen(SCRIPT), SCRIPT);
        send(sock, words, length, 0);
        reply(sock, text, sizeof text, 2);
        memcpy(sha, strchr(text, '\n') + 1, 40);
        sockets[nodes] = sock;
    }
}

static void pair(const char *name, int number) {
    unsigned char chance[16];
    char key[128], token[33], words[512];
    if (getrandom(chance, sizeof chance, 0) != sizeof chance) fail("no random numbers");
    for (int i = 0; i < 16; i++) sprintf(token + 2 * i, "%02x", chance[i]);
    int size = snprintf(key, sizeof key, "%s:%d", name, number);
    double before = now();
    int length = snprintf(words, sizeof words,
        "*6\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$32\r\n%s\r\n$2\r\nNX\r\n$2\r\nPX\r\n$4\r\n5000\r\n", size, key, token);
    on_all(words, length, "+OK");
    times[0] = now() - before;
    length = snprintf(words, sizeof words,
        "*5\r\n$7\r\nEVALSHA\r\n$40\r\n%s\r\n$1\r\n1\r\n$%d\r\n%s\r\n$32\r\n%s\r\n", sha, size, key, token);
    on_all(words, length, ":1");
}

static double number_after(const char *line, const char *field) {
    const char *place = strstr(line, field);
    return place ? atof(place + strlen(field)) : 0;
}

static void cycle(const char *line) {
    char name[64] = "limit";
    const char *place = strstr(line, "\"name\": \"");
    if (place) sscanf(place + 9, "%63[^\"]", name);
    int names = number_after(line, "\"names\": ");
    long most = number_after(line, "\"count\": "), done = 0;
    double used = cpu(), started = now(), until = started + number_after(line, "\"seconds\": ");
    while (now() < until && done + 1 < 4000000 && (!most || done < most)) {
        pair(name, done % names);
        times[++done] = times[0];
    }
    printf("{\"pairs\": %ld, \"seconds\": %.6f, \"cpu\": %.6f, \"failures\": 0, \"error\": \"\", \"acquire_ms\": [", done,
           now() - started, cpu() - used);
    for (long i = 1; i <= done; i++) printf(i > 1 ? ", %.4f" : "%.4f", times[i] * 1000);
    printf("]}\n");
}

int main(void) {
    static char line[65536];
    while (fgets(line, sizeof line, stdin)) {
        if (strstr(line, "\"do\": \"connect\"")) {
            connect_all(line);
            printf("{}\n");
        } else if (strstr(line, "\"do\": \"cycle\"")) {
            cycle(line);
        } else {
            fail("knows connect and cycle only");
        }
        fflush(stdout);
    }
    return 0;
}
