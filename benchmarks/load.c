/* The load generator: websocket clients, and a trivial server that shows the generator's own limit.
 *
 *     load drive URL [options]      connect, send, count; prints one JSON object
 *     load serve [PORT]             a broadcast server without a backend; prints its port
 *
 * One thread, one epoll. A `{}` in URL becomes the number of the room. A run has up to four stages:
 *
 *     arrive   every client connects and upgrades, --concurrency at a time (with --first-echo: and receives an echo; with
 *              --opened: one client has opened each room before, which is not measured, and the others take turns by room)
 *     warm     senders keep --in-flight messages in flight; counts for loss, not for speed
 *     window   the same, measured
 *     drain    sends nothing, and waits for messages in flight until a second passes without progress
 *
 * Every message starts with a stamp of 12 hex digits, 8 for its number and 4 for its sender. Each client uses it to count
 * lost, duplicated and reordered messages of each sender. A message is in flight until its sender has received it. The rest
 * of the payload is a fixed pattern, which plain messages are compared with byte by byte.
 *
 * TLS and inflate come from libssl and libz, which are loaded only if a run needs them: building this file needs only a
 * compiler. CPU time of the server is read from its process clock (clock_getcpuclockid), in nanoseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define READ_SIZE (1 << 20)
#define STAMP_SIZE 12
#define EVENTS 1024
#define SECOND 1000000000LL
#define QUIET (150 * 1000000LL)  /* quiet time that ends the arrival stage */
#define STALL (1 * SECOND)       /* time without progress after which messages in flight are lost */
#define PATIENCE (30 * SECOND)   /* for all clients to arrive */
#define MAX_PROCESSES 8192

/* The key of RFC 6455 1.3 and its accept value: every client uses it, so that no SHA-1 is needed. */
static const char KEY[] = "dGhlIHNhbXBsZSBub25jZQ==";
static const char ACCEPT[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static void *allocate(size_t size) {
    void *memory = calloc(1, size ? size : 1);
    if (!memory) die("out of memory");
    return memory;
}

static int64_t now_ns(clockid_t clock) {
    struct timespec at;
    if (clock_gettime(clock, &at)) return 0;
    return at.tv_sec * SECOND + at.tv_nsec;
}

static int64_t now(void) { return now_ns(CLOCK_MONOTONIC); }

/* ---- histogram: 64 buckets per power of two, an error of at most 1.6 % ---- */

#define SUB_BITS 6
#define SUB (1 << SUB_BITS)
#define BUCKETS (SUB * 50)

struct histogram {
    uint64_t counts[BUCKETS], total;
    int64_t worst;
    double sum;
};

static void note(struct histogram *histogram, int64_t value) {
    if (value < 0) value = 0;
    int shift = value < SUB ? 0 : 63 - __builtin_clzll((uint64_t)value) - SUB_BITS;
    int bucket = shift * SUB + (int)(value >> shift);
    if (bucket >= BUCKETS) bucket = BUCKETS - 1;
    histogram->counts[bucket]++;
    histogram->total++;
    histogram->sum += (double)value;
    if (value > histogram->worst) histogram->worst = value;
}

static double percentile(const struct histogram *histogram, double share) {
    uint64_t rank = (uint64_t)((double)histogram->total * share), seen = 0;
    for (int bucket = 0; bucket < BUCKETS; bucket++) {
        seen += histogram->counts[bucket];
        if (seen > rank) {
            int shift = bucket < 2 * SUB ? 0 : bucket / SUB - 1;
            int64_t low = (int64_t)(bucket - shift * SUB) << shift;
            return (double)low + (double)((int64_t)1 << shift) / 2;
        }
    }
    return (double)histogram->worst;
}

static void print_histogram(const char *name, const struct histogram *histogram) {
    printf("\"%s\": {\"count\": %" PRIu64, name, histogram->total);
    if (histogram->total)
        printf(", \"mean\": %.2f, \"p50\": %.2f, \"p90\": %.2f, \"p99\": %.2f, \"p999\": %.2f, \"max\": %.2f",
               histogram->sum / (double)histogram->total / 1e3, percentile(histogram, .5) / 1e3, percentile(histogram, .9) / 1e3,
               percentile(histogram, .99) / 1e3, percentile(histogram, .999) / 1e3, (double)histogram->worst / 1e3);
    printf("}");
}

/* ---- the server's processes: its own (the first --levels of the tree) and its backends (the rest) ---- */

struct usage {
    int64_t server_cpu, main_cpu, backend_cpu; /* nanoseconds; main: of the first process only */
    int64_t server_rss, main_rss, backend_rss; /* bytes */
    int servers, backends;
};

static int64_t read_rss(int pid) {
    char path[64];
    long pages = 0, resident = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    if (fscanf(file, "%ld %ld", &pages, &resident) != 2) resident = 0;
    fclose(file);
    return resident * sysconf(_SC_PAGESIZE);
}

static int64_t read_cpu(int pid) {
    clockid_t clock;
    return clock_getcpuclockid(pid, &clock) ? 0 : now_ns(clock);
}

static int list_children(int pid, int *found, int room) {
    char path[300];
    int count = 0;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    if (!tasks) return 0;
    for (struct dirent *task; (task = readdir(tasks));) {
        if (!isdigit((unsigned char)task->d_name[0])) continue;
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/children", pid, task->d_name);
        FILE *file = fopen(path, "r");
        if (!file) continue;
        while (count < room && fscanf(file, "%d", &found[count]) == 1) count++;
        fclose(file);
    }
    closedir(tasks);
    return count;
}

static struct usage read_usage(int pid, int levels) {
    struct usage usage = {0};
    if (!pid) return usage;
    int *queue = allocate(MAX_PROCESSES * sizeof *queue), *level = allocate(MAX_PROCESSES * sizeof *level), count = 1;
    queue[0] = pid;
    usage.main_rss = read_rss(pid);
    usage.main_cpu = read_cpu(pid);
    for (int at = 0; at < count; at++) {
        bool is_own = level[at] < levels;
        *(is_own ? &usage.server_cpu : &usage.backend_cpu) += read_cpu(queue[at]);
        *(is_own ? &usage.server_rss : &usage.backend_rss) += read_rss(queue[at]);
        *(is_own ? &usage.servers : &usage.backends) += 1;
        int found = list_children(queue[at], queue + count, MAX_PROCESSES - count);
        for (int child = 0; child < found; child++) level[count + child] = level[at] + 1;
        count += found;
    }
    free(queue), free(level);
    return usage;
}

/* ---- libssl and libz: a few functions with a stable binary interface, loaded by name ---- */

struct z_stream {
    const unsigned char *next_in;
    unsigned avail_in;
    unsigned long total_in;
    unsigned char *next_out;
    unsigned avail_out;
    unsigned long total_out;
    const char *message;
    void *state, *(*zalloc)(void *, unsigned, unsigned);
    void (*zfree)(void *, void *);
    void *opaque;
    int data_type;
    unsigned long adler, reserved;
};

static struct {
    int (*init)(struct z_stream *, int, const char *, int), (*inflate)(struct z_stream *, int), (*reset)(struct z_stream *);
} zlib;

static struct {
    void *context, *(*new)(void *), *(*client_method)(void), *(*context_new)(void *);
    int (*set_fd)(void *, int), (*connect)(void *), (*read)(void *, void *, int), (*write)(void *, const void *, int);
    int (*get_error)(void *, int);
    void (*free)(void *);
} tls;

static void *open_library(const char *const *names) {
    for (; *names; names++) {
        void *library = dlopen(*names, RTLD_NOW);
        if (library) return library;
    }
    die("missing library: %s", names[-1]);
    return NULL;
}

static void *find(void *library, const char *name) {
    void *symbol = dlsym(library, name);
    if (!symbol) die("missing function: %s", name);
    return symbol;
}

static void load_zlib(void) {
    void *library = open_library((const char *const[]){"libz.so.1", "libz.so", NULL});
    zlib.init = find(library, "inflateInit2_");
    zlib.inflate = find(library, "inflate");
    zlib.reset = find(library, "inflateReset");
}

static void load_tls(void) {
    void *library = open_library((const char *const[]){"libssl.so.3", "libssl.so.1.1", "libssl.so", NULL});
    tls.client_method = find(library, "TLS_client_method");
    tls.context_new = find(library, "SSL_CTX_new");
    tls.new = find(library, "SSL_new");
    tls.set_fd = find(library, "SSL_set_fd");
    tls.connect = find(library, "SSL_connect");
    tls.read = find(library, "SSL_read");
    tls.write = find(library, "SSL_write");
    tls.get_error = find(library, "SSL_get_error");
    tls.free = find(library, "SSL_free");
    tls.context = tls.context_new(tls.client_method()); /* no verification: the harness made the certificate */
    ((long (*)(void *, int, long, void *))find(library, "SSL_CTX_ctrl"))(tls.context, 33, 3, NULL); /* SSL_CTRL_MODE: partial writes, moving buffers */
}

/* ---- state of a run ---- */

static struct {
    int rooms, clients, senders, in_flight, size, concurrency, sources, slow, pid, levels;
    double seconds, warm, hold, rate;
    bool is_json, is_deflate, is_tls, is_listening, is_first_echo, is_opened, is_waiting;
    char host[256], port[16], path[1024], **bearers;
    int bearer_count;
} run = {.rooms = 1, .clients = 1, .in_flight = 1, .size = 100, .concurrency = 64, .sources = 1, .levels = 1, .seconds = 1, .warm = .3};

enum state { DIALING, SECURING, UPGRADING, ECHOING, OPEN, CLOSED };

struct seen { /* what one client has received of one sender; a bit for each of the last `ring` numbers */
    int64_t first, highest;
    uint64_t *bits;
};

struct client {
    int fd, room, index, sender; /* sender: its place in `senders`, or -1 */
    enum state state;
    bool is_slow, wants_write, is_dirty;
    int64_t dialed_at, received_at;
    char *rest, *out;
    size_t rest_size, out_size, out_capacity;
    void *secure;
    struct z_stream *inflater;
    struct seen *seen;
};

struct sender {
    struct client *client;
    int64_t next, acked; /* number of the next message; first number not yet received back */
    int64_t *sent_at;
};

static struct client *clients;
static struct sender *senders;
static int total_clients, ring, poller, arriving, arrived, next_dial, closed_early, refused, last_status, last_code, deflating;
static char request[8192], *template, *read_buffer, *inflated;
static size_t template_stamp;
static struct sockaddr_storage address;
static socklen_t address_size;
static struct histogram arrival, latency, interval;
static uint64_t received, distinct, duplicated, reordered, corrupt, other, sent, stalls, expected;
static int64_t moment, last_progress;
static bool is_counting, is_awake; /* in the window; after it, when slow clients read */
static uint32_t mask_seed = 0x9e3779b9;

static const signed char HEX[256] = {
    ['0'] = 1, ['1'] = 2, ['2'] = 3, ['3'] = 4, ['4'] = 5, ['5'] = 6, ['6'] = 7, ['7'] = 8, ['8'] = 9, ['9'] = 10,
    ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
};

static bool parse_hex(const char *text, int digits, uint32_t *value) {
    uint32_t result = 0;
    for (int at = 0; at < digits; at++) {
        int digit = HEX[(unsigned char)text[at]];
        if (!digit) return false;
        result = result << 4 | (uint32_t)(digit - 1);
    }
    *value = result;
    return true;
}

static void write_hex(char *text, int digits, uint32_t value) {
    for (int at = digits - 1; at >= 0; at--, value >>= 4) text[at] = "0123456789abcdef"[value & 15];
}

/* The text of every message; `template_stamp` is the place of its stamp. */
static void make_template(void) {
    const char *head = run.is_json ? "{\"n\":\"" : "", *between = run.is_json ? "\",\"p\":\"" : " ", *tail = run.is_json ? "\"}" : "";
    size_t fixed = strlen(head) + STAMP_SIZE + strlen(between) + strlen(tail);
    if ((size_t)run.size < fixed) die("--size must be at least %zu", fixed);
    template = allocate((size_t)run.size + 1);
    template_stamp = strlen(head);
    char *at = stpcpy(template, head);
    memset(at, '0', STAMP_SIZE);
    at = stpcpy(at + STAMP_SIZE, between);
    for (size_t left = (size_t)run.size - fixed, n = 0; n < left; n++) *at++ = (char)('a' + n * 7 % 26);
    stpcpy(at, tail);
}

/* ---- sending ---- */

static bool is_asleep(const struct client *client) { return client->is_slow && client->state == OPEN && !is_awake; }

static void watch(struct client *client, bool wants_write) {
    struct epoll_event event = {.events = (is_asleep(client) ? 0u : (uint32_t)EPOLLIN) | (wants_write ? EPOLLOUT : 0), .data.ptr = client};
    client->wants_write = wants_write;
    epoll_ctl(poller, EPOLL_CTL_MOD, client->fd, &event);
}

static void lose(struct client *client) {
    if (client->state == CLOSED) return;
    if (client->state < OPEN) arriving--;
    if (client->state == OPEN && !client->is_slow) closed_early++;
    client->state = CLOSED;
    struct linger abort = {.l_onoff = 1, .l_linger = 0}; /* no TIME_WAIT: ports would run out */
    setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
    if (client->secure) tls.free(client->secure);
    client->secure = NULL;
    close(client->fd);
}

static ssize_t push(struct client *client, const char *data, size_t size) {
    if (client->secure) {
        int done = tls.write(client->secure, data, (int)size);
        if (done > 0) return done;
        int error = tls.get_error(client->secure, done);
        errno = error == 2 || error == 3 ? EAGAIN : EPIPE;
        return -1;
    }
    return send(client->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void flush(struct client *client) {
    size_t done = 0;
    while (done < client->out_size) {
        ssize_t size = push(client, client->out + done, client->out_size - done);
        if (size < 0) {
            if (errno == EAGAIN || errno == EWOULDBLOCK) break;
            lose(client);
            return;
        }
        done += (size_t)size;
    }
    client->out_size -= done;
    if (client->out_size) memmove(client->out, client->out + done, client->out_size);
    if ((client->out_size > 0) != client->wants_write) watch(client, client->out_size > 0);
}

static char *reserve(struct client *client, size_t size) {
    if (client->out_size + size > client->out_capacity) {
        client->out_capacity = (client->out_size + size) * 2;
        client->out = realloc(client->out, client->out_capacity);
        if (!client->out) die("out of memory");
    }
    char *place = client->out + client->out_size;
    client->out_size += size;
    return place;
}

static void put_frame(struct client *client, int opcode, const char *payload, size_t size) {
    size_t head = size < 126 ? 2 : size < 65536 ? 4 : 10;
    char *at = reserve(client, head + 4 + size);
    at[0] = (char)(0x80 | opcode);
    if (head == 2) at[1] = (char)(0x80 | size);
    if (head == 4) at[1] = (char)(0x80 | 126), at[2] = (char)(size >> 8), at[3] = (char)size;
    if (head == 10) {
        at[1] = (char)(0x80 | 127);
        for (int byte = 0; byte < 8; byte++) at[2 + byte] = (char)((uint64_t)size >> (56 - 8 * byte));
    }
    mask_seed = mask_seed * 1664525u + 1013904223u;
    unsigned char mask[4];
    memcpy(mask, &mask_seed, 4);
    memcpy(at + head, mask, 4);
    at += head + 4;
    uint64_t wide = (uint64_t)mask_seed << 32 | mask_seed;
    size_t n = 0;
    for (; n + 8 <= size; n += 8) {
        uint64_t word;
        memcpy(&word, payload + n, 8);
        word ^= wide;
        memcpy(at + n, &word, 8);
    }
    for (; n < size; n++) at[n] = payload[n] ^ (char)mask[n & 3];
}

static void put_message(struct sender *sender, int64_t due) {
    char *stamp = template + template_stamp;
    write_hex(stamp, 8, (uint32_t)sender->next);
    write_hex(stamp + 8, 4, (uint32_t)(sender - senders) & 0xffff);
    put_frame(sender->client, 1, template, (size_t)run.size);
    sender->sent_at[sender->next++ & (ring - 1)] = due;
    sent++;
}

/* ---- receiving ---- */

static void take_number(struct client *client, uint32_t number, struct sender *sender, int place) {
    struct seen *seen = &client->seen[place];
    int64_t n = number;
    uint64_t bit = 1ull << (n & 63), *word = &seen->bits[(n & (ring - 1)) >> 6];
    if (seen->highest < 0) seen->first = n;
    if (n > seen->highest) {
        if (n - seen->highest >= ring) memset(seen->bits, 0, (size_t)ring / 8);
        else
            for (int64_t skipped = seen->highest + 1; skipped < n; skipped++) seen->bits[(skipped & (ring - 1)) >> 6] &= ~(1ull << (skipped & 63));
        seen->highest = n;
        *word |= bit;
        distinct++;
    } else if (n <= seen->highest - ring || *word & bit) {
        duplicated++;
        return;
    } else {
        *word |= bit;
        reordered++, distinct++;
    }
    last_progress = moment;
    if (!is_counting) return;
    received++;
    if (sender && n > sender->next - ring) note(&latency, moment - sender->sent_at[n & (ring - 1)]);
}

static void take_message(struct client *client, const char *text, size_t size) {
    uint32_t number, from;
    const char *stamp = text;
    if (run.is_json) {
        stamp = memmem(text, size, "\"n\":", 4);
        if (stamp) stamp = memchr(stamp + 4, '"', size - (size_t)(stamp + 4 - text));
        if (stamp) stamp++;
    }
    if (!stamp || (size_t)(stamp - text) + STAMP_SIZE > size || !parse_hex(stamp, 8, &number) || !parse_hex(stamp + 8, 4, &from)) {
        other++; /* for example a join message */
        last_progress = moment;
        return;
    }
    if (client->state == ECHOING) {
        client->state = OPEN;
        arrived++, arriving--;
        note(&arrival, moment - client->dialed_at);
        return;
    }
    if (run.is_listening) { /* the backend is the one sender; its clock follows the stamp: "<12 hex> <ns> ..." */
        take_number(client, number, NULL, 0);
        if (is_counting) {
            note(&latency, now() - strtoll(stamp + STAMP_SIZE + 1, NULL, 10));
            if (client->received_at) note(&interval, llabs(moment - client->received_at - (int64_t)(SECOND / run.rate)));
        }
        client->received_at = moment;
        return;
    }
    if (!run.senders) {
        other++;
        return;
    }
    struct sender *sender = &senders[from];
    if ((int)from >= run.rooms * run.senders || sender->client->room != client->room || number >= sender->next) {
        corrupt++;
        return;
    }
    if (run.is_json ? size < (size_t)run.size
                    : size != (size_t)run.size || memcmp(text + STAMP_SIZE, template + STAMP_SIZE, size - STAMP_SIZE))
        corrupt++;
    take_number(client, number, sender, (int)from % run.senders);
    if (sender->client == client && number >= sender->acked) sender->acked = number + 1;
}

static void inflate_message(struct client *client, const char *text, size_t size) {
    static const unsigned char TAIL[4] = {0, 0, 0xff, 0xff};
    struct z_stream *stream = client->inflater;
    stream->next_out = (unsigned char *)inflated;
    stream->avail_out = READ_SIZE;
    stream->next_in = (const unsigned char *)text, stream->avail_in = (unsigned)size;
    int first = zlib.inflate(stream, 2);
    stream->next_in = TAIL, stream->avail_in = 4;
    int second = zlib.inflate(stream, 2);
    if ((first != 0 && first != -5) || (second != 0 && second != -5)) {
        corrupt++;
        return;
    }
    take_message(client, inflated, READ_SIZE - stream->avail_out);
    zlib.reset(stream);
}

static void take_frame(struct client *client, int first_byte, char *payload, size_t size) {
    int opcode = first_byte & 15;
    if (opcode == 8) {
        last_code = size >= 2 ? (unsigned char)payload[0] << 8 | (unsigned char)payload[1] : 1005;
        put_frame(client, 8, payload, size >= 2 ? 2 : 0);
        flush(client);
        lose(client);
    } else if (opcode == 9) {
        put_frame(client, 10, payload, size);
        flush(client);
    } else if (first_byte & 0x40) {
        if (client->inflater) inflate_message(client, payload, size);
        else corrupt++;
    } else if (opcode == 1 || opcode == 2) { /* a continuation belongs to a message already counted by its first frame */
        take_message(client, payload, size);
    }
}

/* Process complete frames at the beginning of `data`; return the number of bytes used. */
static size_t take_frames(struct client *client, char *data, size_t size) {
    size_t at = 0;
    while (size - at >= 2 && client->state != CLOSED) {
        unsigned char *head = (unsigned char *)data + at;
        uint64_t length = head[1] & 127;
        size_t head_size = length < 126 ? 2 : length == 126 ? 4 : 10;
        if (size - at < head_size) break;
        if (head_size == 4) length = (uint64_t)head[2] << 8 | head[3];
        if (head_size == 10) {
            length = 0;
            for (int byte = 2; byte < 10; byte++) length = length << 8 | head[byte];
        }
        if (length > READ_SIZE / 2) die("a frame of %" PRIu64 " bytes", length);
        if (size - at - head_size < length) break;
        take_frame(client, head[0], data + at + head_size, length);
        at += head_size + length;
    }
    return at;
}

static void start_sending(struct client *client) {
    client->state = OPEN;
    if (!run.is_first_echo) {
        arrived++, arriving--;
        note(&arrival, moment - client->dialed_at);
        if (client->is_slow) watch(client, false);
        return;
    }
    client->state = ECHOING;
    memset(template + template_stamp, 'f', STAMP_SIZE); /* a stamp no sender uses */
    put_frame(client, 1, template, (size_t)run.size);
    flush(client);
}

static size_t take_head(struct client *client, char *data, size_t size) {
    char *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t head = (size_t)(end - data) + 4;
    last_status = size > 12 ? atoi(data + 9) : 0;
    if (last_status != 101 || !memmem(data, head, ACCEPT, sizeof ACCEPT - 1)) {
        refused++;
        lose(client);
        return size;
    }
    if (run.is_deflate && memmem(data, head, "permessage-deflate", 18)) {
        deflating++;
        client->inflater = allocate(sizeof *client->inflater);
        if (zlib.init(client->inflater, -15, "1", sizeof *client->inflater)) die("inflateInit2 failed");
    }
    start_sending(client);
    return head;
}

static ssize_t pull(struct client *client, char *into, size_t size) {
    if (!client->secure) return recv(client->fd, into, size, MSG_DONTWAIT);
    size_t got = 0; /* libssl returns one record per read */
    while (got < size) {
        int done = tls.read(client->secure, into + got, (int)(size - got));
        if (done > 0) {
            got += (size_t)done;
            continue;
        }
        int error = tls.get_error(client->secure, done);
        if (error == 2 || error == 3) break;
        if (!got) return 0;
        break;
    }
    if (got) return (ssize_t)got;
    errno = EAGAIN;
    return -1;
}

static void readable(struct client *client) {
    size_t held = client->rest_size;
    if (held) memcpy(read_buffer, client->rest, held);
    ssize_t size = pull(client, read_buffer + held, READ_SIZE - held);
    if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
    if (size <= 0) {
        if (client->state == UPGRADING) refused++;
        lose(client);
        return;
    }
    size_t all = held + (size_t)size, used = 0;
    if (client->state == UPGRADING) used = take_head(client, read_buffer, all);
    if (client->state == OPEN || client->state == ECHOING) used += take_frames(client, read_buffer + used, all - used);
    if (client->state == CLOSED) return;
    client->rest_size = all - used;
    if (client->rest_size) {
        client->rest = realloc(client->rest, client->rest_size);
        memcpy(client->rest, read_buffer + used, client->rest_size);
    }
}

/* ---- arriving ---- */

static void dial(struct client *client) {
    client->fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (client->fd < 0) die("socket: %s (raise the limit of open files)", strerror(errno));
    int on = 1;
    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (client->is_slow) {
        int tiny = 4096;
        setsockopt(client->fd, SOL_SOCKET, SO_RCVBUF, &tiny, sizeof tiny);
    }
    if (run.sources > 1 && address.ss_family == AF_INET) { /* 28,000 ports per address */
        struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)((client - clients) % run.sources))};
        setsockopt(client->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(client->fd, (struct sockaddr *)&source, sizeof source)) die("bind: %s", strerror(errno));
    }
    client->dialed_at = now();
    client->state = DIALING;
    arriving++;
    if (connect(client->fd, (struct sockaddr *)&address, address_size) && errno != EINPROGRESS) die("connect: %s", strerror(errno));
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = client};
    client->wants_write = true;
    epoll_ctl(poller, EPOLL_CTL_ADD, client->fd, &event);
}

static void upgrade(struct client *client) {
    char path[1100], *hole = strstr(run.path, "{}");
    if (hole) snprintf(path, sizeof path, "%.*s%d%s", (int)(hole - run.path), run.path, client->room, hole + 2);
    else snprintf(path, sizeof path, "%s", run.path);
    int size = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: %s:%s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n%s%s%s%s\r\n",
                        path, run.host, run.port, KEY, run.bearer_count ? "Authorization: Bearer " : "",
                        run.bearer_count ? run.bearers[(client - clients) % run.bearer_count] : "", run.bearer_count ? "\r\n" : "",
                        run.is_deflate ? "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n" : "");
    if (size >= (int)sizeof request) die("the request is too long");
    memcpy(reserve(client, (size_t)size), request, (size_t)size);
    client->state = UPGRADING;
    client->wants_write = true; /* makes flush() enable reading */
    flush(client);
    if (client->state != CLOSED && client->wants_write) watch(client, client->out_size > 0);
}

static void secure(struct client *client) {
    if (!client->secure) {
        client->secure = tls.new(tls.context);
        tls.set_fd(client->secure, client->fd);
    }
    client->state = SECURING;
    int done = tls.connect(client->secure);
    if (done == 1) {
        upgrade(client);
        return;
    }
    int error = tls.get_error(client->secure, done);
    if (error != 2 && error != 3) {
        refused++;
        lose(client);
    } else {
        watch(client, error == 3);
    }
}

static void connected(struct client *client) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) die("connect to %s:%s: %s", run.host, run.port, strerror(error));
    if (run.is_tls) secure(client);
    else upgrade(client);
}

static void happened(struct client *client, uint32_t events) {
    if (client->state == CLOSED) return;
    if (client->state == DIALING) {
        connected(client);
        return;
    }
    if (client->state == SECURING) {
        secure(client);
        return;
    }
    if (events & EPOLLOUT) flush(client);
    if (client->state == CLOSED) return;
    if (is_asleep(client)) {
        if (events & (EPOLLHUP | EPOLLERR)) lose(client);
        return;
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(client);
}

/* One iteration of the event loop: wait until `until` at most, and process all events. */
static void run_iteration(int64_t until) {
    static struct epoll_event events[EVENTS];
    int64_t left = until - now();
    struct timespec timeout = {.tv_sec = 0, .tv_nsec = left < 0 ? 0 : left > 20000000 ? 20000000 : left};
    int count = epoll_pwait2(poller, events, EVENTS, &timeout, NULL);
    moment = now();
    for (int at = 0; at < count; at++) {
        happened(events[at].data.ptr, events[at].events);
        if ((at & 15) == 15) moment = now();
    }
}

static void arrive(int count) {
    int64_t deadline = now() + PATIENCE;
    while (arrived < count) {
        while (next_dial < count && arriving < run.concurrency) dial(&clients[next_dial++]);
        run_iteration(now() + 20000000);
        if (refused || closed_early) die("%d refused, %d closed (HTTP status %d, close code %d)", refused, closed_early, last_status, last_code);
        if (moment > deadline) die("only %d of %d clients arrived in %lld s", arrived, count, PATIENCE / SECOND);
    }
}

/* Wait until nothing arrives: joins may have caused many messages. */
static void settle(int64_t quiet) {
    int64_t deadline = now() + PATIENCE;
    last_progress = now();
    while (now() - last_progress < quiet && now() < deadline) run_iteration(last_progress + quiet);
}

/* ---- messages ---- */

static void send_what_fits(void) {
    int count = run.rooms * run.senders;
    for (int at = 0; at < count; at++) {
        struct sender *sender = &senders[at];
        if (sender->client->state != OPEN || sender->next - sender->acked >= run.in_flight) continue;
        while (sender->next - sender->acked < run.in_flight) put_message(sender, moment);
        flush(sender->client);
    }
}

/* Send the messages that are due at a fixed rate over all senders; our own delay counts as latency. Return when the next is due. */
static int64_t send_what_is_due(int64_t started, int64_t *done) {
    int count = run.rooms * run.senders;
    int64_t period = (int64_t)(SECOND / run.rate);
    while (started + *done * period <= moment) {
        struct sender *sender = &senders[*done % count];
        if (sender->client->state == OPEN && sender->next - sender->acked < ring / 2) {
            put_message(sender, started + *done * period);
            flush(sender->client);
        }
        ++*done;
    }
    return started + *done * period;
}

static void exchange(int64_t until, int64_t started, int64_t *paced) {
    last_progress = moment = now();
    while (moment < until) {
        int64_t next = until;
        if (run.senders && run.rate > 0) next = send_what_is_due(started, paced);
        else if (run.senders) send_what_fits();
        run_iteration(next < until ? next : until);
        if (closed_early == total_clients) die("every client was closed (code %d)", last_code);
        if (run.senders && moment - last_progress > STALL) {
            for (int at = 0; at < run.rooms * run.senders; at++) senders[at].acked = senders[at].next;
            stalls++;
            last_progress = moment;
        }
    }
}

static void drain(void) {
    last_progress = moment = now();
    while (distinct < expected && moment - last_progress < STALL) run_iteration(last_progress + STALL);
}

/* ---- the report ---- */

/* Let the clients that did not read read the rest; return how many were closed. */
static int wake_slow(void) {
    int closed = 0;
    is_awake = true;
    for (int at = 0; at < total_clients; at++)
        if (clients[at].is_slow && clients[at].state == OPEN) watch(&clients[at], false);
    if (run.slow) settle(2 * QUIET);
    for (int at = 0; at < total_clients; at++) closed += clients[at].is_slow && clients[at].state == CLOSED;
    return closed;
}

static void print_usage(const char *name, struct usage from, struct usage to) {
    printf("\"%s\": {\"server_cpu\": %.6f, \"main_cpu\": %.6f, \"backend_cpu\": %.6f, \"server_rss\": %" PRId64 ", \"main_rss\": %" PRId64 ", \"backend_rss\": %" PRId64
           ", \"server_rss_before\": %" PRId64 ", \"server_processes\": %d, \"backends\": %d}",
           name, (double)(to.server_cpu - from.server_cpu) / 1e9, (double)(to.main_cpu - from.main_cpu) / 1e9, (double)(to.backend_cpu - from.backend_cpu) / 1e9, to.server_rss, to.main_rss,
           to.backend_rss, from.server_rss, to.servers, to.backends);
}

static void set_up(void) {
    total_clients = run.rooms * run.clients;
    ring = 64;
    while (ring < 4 * run.in_flight || (run.rate > 0 && ring < 4096)) ring *= 2;
    clients = allocate((size_t)total_clients * sizeof *clients);
    senders = allocate((size_t)(run.rooms * run.senders) * sizeof *senders);
    read_buffer = allocate(READ_SIZE + 64);
    inflated = allocate(READ_SIZE);
    make_template();
    int places = run.is_listening ? 1 : run.senders;
    for (int at = 0; at < total_clients; at++) {
        struct client *client = &clients[at];
        client->room = run.is_opened ? at % run.rooms : at / run.clients, client->index = run.is_opened ? at / run.rooms : at % run.clients;
        client->sender = -1;
        client->is_slow = client->index < run.slow;
        int place = client->index - (run.clients - run.senders); /* senders are the last to join */
        if (place >= 0) {
            client->sender = client->room * run.senders + place;
            senders[client->sender] = (struct sender){.client = client, .sent_at = allocate((size_t)ring * sizeof(int64_t))};
        }
        client->seen = allocate((size_t)places * sizeof *client->seen);
        for (int each = 0; each < places; each++) client->seen[each] = (struct seen){.highest = -1, .bits = allocate((size_t)ring / 8)};
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    if (getaddrinfo(run.host, run.port, &hints, &found)) die("unknown host: %s", run.host);
    memcpy(&address, found->ai_addr, found->ai_addrlen);
    address_size = found->ai_addrlen;
    freeaddrinfo(found);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if ((rlim_t)total_clients + 64 > files.rlim_max) die("%d clients need more open files than the limit of %lu", total_clients, (unsigned long)files.rlim_max);
    poller = epoll_create1(EPOLL_CLOEXEC);
}

static void count_from_first(void) { /* a listener counts from the first message it receives, not from number 0 */
    for (int at = 0; at < total_clients; at++) clients[at].seen[0].highest = -1;
    distinct = 0;
}

static void open_rooms_first(void) { /* the program of each room has answered; arrivals are counted from here */
    bool is_first_echo = run.is_first_echo;
    run.is_first_echo = true;
    arrive(run.rooms);
    settle(QUIET);
    run.is_first_echo = is_first_echo;
    memset(&arrival, 0, sizeof arrival);
}

static void drive(void) {
    if (run.is_tls) load_tls();
    if (run.is_deflate) load_zlib();
    set_up();
    if (run.is_opened) open_rooms_first();
    int before_clock = arrived;
    struct usage before = read_usage(run.pid, run.levels);
    int64_t self = now_ns(CLOCK_PROCESS_CPUTIME_ID), start = now();
    arrive(total_clients);
    int64_t all_there = now();
    struct usage there = read_usage(run.pid, run.levels);
    if (!run.is_listening) settle(run.hold > 0 ? (int64_t)(run.hold * SECOND) : QUIET);
    struct usage settled = read_usage(run.pid, run.levels);
    printf("{\"arrival\": {\"clients\": %d, \"seconds\": %.6f, \"deflating\": %d, \"generator_cpu\": %.6f, ", total_clients - before_clock, (double)(all_there - start) / 1e9,
           deflating, (double)(now_ns(CLOCK_PROCESS_CPUTIME_ID) - self) / 1e9);
    print_histogram("latency_us", &arrival);
    printf(", ");
    print_usage("usage", before, there);
    printf(", ");
    print_usage("settled", before, settled);
    printf("}");
    if (run.senders || run.is_listening) {
        int64_t paced = 0, began = now();
        exchange(began + (int64_t)(run.warm * SECOND), began, &paced);
        if (run.is_listening) count_from_first();
        struct usage opened = read_usage(run.pid, run.levels);
        int64_t opened_at = now(), own = now_ns(CLOCK_PROCESS_CPUTIME_ID);
        uint64_t sent_before = sent;
        is_counting = true;
        exchange(opened_at + (int64_t)(run.seconds * SECOND), began, &paced);
        int64_t closed_at = now();
        struct usage closed = read_usage(run.pid, run.levels);
        own = now_ns(CLOCK_PROCESS_CPUTIME_ID) - own;
        uint64_t in_window = received, sent_in_window = sent - sent_before;
        is_counting = false;
        uint64_t lost = 0;
        if (run.senders) {
            for (int at = 0; at < run.rooms * run.senders; at++) expected += (uint64_t)senders[at].next * (uint64_t)(run.clients - run.slow);
            drain();
            lost = expected - distinct;
        } else if (run.is_listening) {
            for (int at = 0; at < total_clients; at++)
                if (clients[at].seen[0].highest >= 0) expected += (uint64_t)(clients[at].seen[0].highest - clients[at].seen[0].first + 1);
            lost = expected - distinct;
        }
        int slow_closed = wake_slow();
        printf(", \"traffic\": {\"seconds\": %.6f, \"sent\": %" PRIu64 ", \"received\": %" PRIu64 ", \"expected_in_all\": %" PRIu64 ", \"lost\": %" PRIu64
               ", \"reordered\": %" PRIu64 ", \"duplicated\": %" PRIu64 ", \"corrupt\": %" PRIu64 ", \"other\": %" PRIu64 ", \"stalls\": %" PRIu64
               ", \"closed\": %d, \"last_code\": %d, \"slow_closed\": %d, \"generator_cpu\": %.6f, ",
               (double)(closed_at - opened_at) / 1e9, sent_in_window, in_window, expected, lost, reordered, duplicated, corrupt, other, stalls, closed_early,
               last_code, slow_closed, (double)own / 1e9);
        print_histogram("latency_us", &latency);
        printf(", ");
        print_histogram("jitter_us", &interval);
        printf(", ");
        print_usage("usage", opened, closed);
        printf("}");
    }
    printf("}\n");
    fflush(stdout);
    if (run.is_waiting) (void)!read(STDIN_FILENO, read_buffer, 1);
    for (int at = 0; at < total_clients; at++) { /* close cleanly, so that no server has to wait */
        if (clients[at].state != OPEN) continue;
        put_frame(&clients[at], 8, "\x03\xe8", 2);
        flush(&clients[at]);
    }
    int64_t until = now() + STALL;
    for (int open = 1; open && now() < until;) {
        run_iteration(now() + 20000000);
        open = 0;
        for (int at = 0; at < total_clients; at++) open += clients[at].state == OPEN;
    }
}

/* ---- the trivial server: sends every frame, with a new header, to all clients of the same path ---- */

struct peer {
    int fd, room;
    bool is_open;
    char *in, *out;
    size_t in_size, out_size, out_capacity;
};

struct room {
    char path[128];
    struct peer **peers;
    int count, capacity;
};

static struct room *open_rooms;
static int open_room_count;

static int find_room(const char *path, size_t size) {
    for (int at = 0; at < open_room_count; at++)
        if (strlen(open_rooms[at].path) == size && !memcmp(open_rooms[at].path, path, size)) return at;
    open_rooms = realloc(open_rooms, (size_t)(open_room_count + 1) * sizeof *open_rooms);
    struct room *room = &open_rooms[open_room_count];
    *room = (struct room){0};
    snprintf(room->path, sizeof room->path, "%.*s", (int)size, path);
    return open_room_count++;
}

static void peer_write(struct peer *peer, const char *data, size_t size) {
    if (!peer->out_size) {
        ssize_t done = send(peer->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (done > 0) data += done, size -= (size_t)done;
        if (!size) return;
    }
    if (peer->out_size + size > peer->out_capacity) peer->out = realloc(peer->out, peer->out_capacity = 2 * (peer->out_size + size));
    memcpy(peer->out + peer->out_size, data, size);
    peer->out_size += size;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = peer};
    epoll_ctl(poller, EPOLL_CTL_MOD, peer->fd, &event);
}

static void peer_flush(struct peer *peer) {
    ssize_t done = send(peer->fd, peer->out, peer->out_size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (done > 0) memmove(peer->out, peer->out + done, peer->out_size -= (size_t)done);
    if (peer->out_size) return;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
    epoll_ctl(poller, EPOLL_CTL_MOD, peer->fd, &event);
}

static void peer_gone(struct peer *peer) {
    if (peer->is_open) {
        struct room *room = &open_rooms[peer->room];
        for (int at = 0; at < room->count; at++)
            if (room->peers[at] == peer) {
                room->peers[at] = room->peers[--room->count];
                break;
            }
    }
    close(peer->fd);
    free(peer->in), free(peer->out), free(peer);
}

static bool peer_upgrade(struct peer *peer, size_t *used) {
    char *end = memmem(read_buffer, peer->in_size, "\r\n\r\n", 4), *space = memchr(read_buffer, ' ', peer->in_size);
    if (!end || !space) return false;
    char *stop = memchr(space + 1, ' ', (size_t)(end - space - 1));
    if (!stop) return false;
    peer->room = find_room(space + 1, (size_t)(stop - space - 1));
    struct room *room = &open_rooms[peer->room];
    if (room->count == room->capacity) room->peers = realloc(room->peers, (size_t)(room->capacity = 2 * room->capacity + 4) * sizeof *room->peers);
    room->peers[room->count++] = peer;
    char answer[256];
    int size = snprintf(answer, sizeof answer, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", ACCEPT);
    peer->is_open = true;
    peer_write(peer, answer, (size_t)size);
    *used = (size_t)(end - read_buffer) + 4;
    return true;
}

static void peer_read(struct peer *peer) {
    static char *joined;
    if (!joined) joined = allocate(READ_SIZE);
    if (peer->in_size) memcpy(read_buffer, peer->in, peer->in_size);
    ssize_t got = recv(peer->fd, read_buffer + peer->in_size, READ_SIZE - peer->in_size, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        peer_gone(peer);
        return;
    }
    peer->in_size += (size_t)got;
    size_t used = 0, size = 0;
    bool is_closing = false;
    if (peer->is_open || peer_upgrade(peer, &used))
        while (peer->in_size - used >= 6) {
            unsigned char *head = (unsigned char *)read_buffer + used, *mask;
            size_t length = head[1] & 127, head_size = length == 126 ? 4 : length == 127 ? 10 : 2;
            if (length == 126) length = (size_t)head[2] << 8 | head[3];
            if (head_size == 10) die("frames over 64 KiB are not for this server");
            if (peer->in_size - used < head_size + 4 + length) break;
            mask = head + head_size;
            for (size_t n = 0; n < length; n++) mask[4 + n] ^= mask[n & 3];
            char *at = joined + size;
            at[0] = (char)head[0], at[1] = (char)(head[1] & 127);
            memcpy(at + 2, head + 2, head_size - 2);
            memcpy(at + head_size, mask + 4, length);
            used += head_size + 4 + length;
            if ((head[0] & 15) == 8) is_closing = true;
            else if ((head[0] & 15) == 9) at[0] = (char)0x8a, peer_write(peer, at, head_size + length);
            else size += head_size + length;
        }
    peer->in_size -= used;
    if (peer->in_size) memcpy(peer->in = realloc(peer->in, peer->in_size), read_buffer + used, peer->in_size);
    if (size) {
        struct room *room = &open_rooms[peer->room];
        for (int at = 0; at < room->count; at++) peer_write(room->peers[at], joined, size);
    }
    if (is_closing) {
        peer_write(peer, "\x88\x02\x03\xe8", 4);
        peer_gone(peer);
    }
}

static void serve(int port) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in local = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof local;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&local, size) || listen(listener, 4096)) die("listen: %s", strerror(errno));
    getsockname(listener, (struct sockaddr *)&local, &size);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    read_buffer = allocate(READ_SIZE);
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    printf("%d\n", ntohs(local.sin_port));
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS, -1);
        for (int at = 0; at < count; at++) {
            struct peer *peer = events[at].data.ptr;
            if (peer) {
                if (events[at].events & EPOLLOUT && peer->out_size) peer_flush(peer);
                if (events[at].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) peer_read(peer);
                continue;
            }
            for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                peer = allocate(sizeof *peer);
                peer->fd = fd;
                event = (struct epoll_event){.events = EPOLLIN, .data.ptr = peer};
                epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
            }
        }
    }
}

/* ---- the command line ---- */

static void parse_url(const char *url) {
    char scheme[8], authority[300] = "";
    strcpy(run.path, "/");
    if (sscanf(url, "%7[a-z]://%299[^/]%1023s", scheme, authority, run.path) < 2) die("not a URL: %s", url);
    run.is_tls = !strcmp(scheme, "wss");
    if (!run.is_tls && strcmp(scheme, "ws")) die("not ws:// or wss://: %s", url);
    char *colon = strrchr(authority, ':');
    snprintf(run.port, sizeof run.port, "%s", colon ? colon + 1 : run.is_tls ? "443" : "80");
    if (colon) *colon = 0;
    snprintf(run.host, sizeof run.host, "%s", authority);
}

static void read_bearers(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) die("%s: %s", path, strerror(errno));
    char *line = NULL;
    size_t capacity = 0;
    for (ssize_t length; (length = getline(&line, &capacity, file)) > 0;) {
        if (line[length - 1] == '\n') line[length - 1] = 0;
        run.bearers = realloc(run.bearers, (size_t)(run.bearer_count + 1) * sizeof *run.bearers);
        run.bearers[run.bearer_count++] = strdup(line);
    }
    if (!run.bearer_count) die("%s: no token", path);
    free(line);
    fclose(file);
}

int main(int count, char **words) {
    static const struct option OPTIONS[] = {
        {"rooms", 1, 0, 'r'},    {"clients", 1, 0, 'n'}, {"senders", 1, 0, 's'}, {"in-flight", 1, 0, 'w'}, {"size", 1, 0, 'b'}, {"concurrency", 1, 0, 'c'},
        {"sources", 1, 0, 'a'},  {"slow", 1, 0, 'l'},    {"pid", 1, 0, 'p'},     {"levels", 1, 0, 'v'},    {"seconds", 1, 0, 't'}, {"warm", 1, 0, 'u'},
        {"hold", 1, 0, 'h'},     {"rate", 1, 0, 'f'},    {"json", 0, 0, 'j'},    {"deflate", 0, 0, 'z'},   {"listen", 0, 0, 'i'}, {"first-echo", 0, 0, 'e'},
        {"wait", 0, 0, 'x'},     {"bearers", 1, 0, 'k'}, {"opened", 0, 0, 'o'},
        {0},
    };
    if (count >= 2 && !strcmp(words[1], "serve")) serve(count > 2 ? atoi(words[2]) : 0);
    if (count < 3 || strcmp(words[1], "drive")) {
        fputs("usage: load drive URL [--rooms R] [--clients N] [--senders S] [--in-flight W] [--size B] [--json] [--rate HZ]\n"
              "                      [--seconds S] [--warm S] [--hold S] [--concurrency C] [--sources A] [--slow K] [--first-echo]\n"
              "                      [--opened] [--listen] [--deflate] [--wait] [--bearers FILE] [--pid PID] [--levels L]\n"
              "       load serve [PORT]\n"
              "clients and senders are per room; `{}` in URL becomes the number of the room; --wait leaves at the end of stdin\n"
              "each client sends one of the tokens in FILE, one per line, as `Authorization: Bearer`\n",
              stderr);
        return 2;
    }
    parse_url(words[2]);
    for (int option; (option = getopt_long(count - 2, words + 2, "", OPTIONS, NULL)) != -1;) switch (option) {
        case 'r': run.rooms = atoi(optarg); break;
        case 'n': run.clients = atoi(optarg); break;
        case 's': run.senders = atoi(optarg); break;
        case 'w': run.in_flight = atoi(optarg); break;
        case 'b': run.size = atoi(optarg); break;
        case 'c': run.concurrency = atoi(optarg); break;
        case 'a': run.sources = atoi(optarg); break;
        case 'l': run.slow = atoi(optarg); break;
        case 'p': run.pid = atoi(optarg); break;
        case 'v': run.levels = atoi(optarg); break;
        case 't': run.seconds = atof(optarg); break;
        case 'u': run.warm = atof(optarg); break;
        case 'h': run.hold = atof(optarg); break;
        case 'f': run.rate = atof(optarg); break;
        case 'j': run.is_json = true; break;
        case 'z': run.is_deflate = true; break;
        case 'i': run.is_listening = true; break;
        case 'e': run.is_first_echo = true; break;
        case 'o': run.is_opened = true; break;
        case 'x': run.is_waiting = true; break;
        case 'k': read_bearers(optarg); break;
        default: return 2;
    }
    if (run.senders > run.clients) die("--senders is at most --clients");
    if (run.is_listening && !run.rate) die("--listen needs --rate, the backend's own");
    drive();
    return 0;
}
