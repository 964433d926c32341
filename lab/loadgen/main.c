/*
 * loadgen - opens readers to a fan-out server, publishes, and measures.
 *
 * One thread, one epoll, loopback only. The phases, each left out when its
 * seconds are 0:
 *
 *   connect    handshakes
 *   idle       nothing is published: memory, heartbeats
 *   rate       open loop: so many messages a second, by the clock
 *   saturate   closed loop: so many messages on their way, always
 *   burst      closed loop: so many messages back to back, then the next ones
 *
 * Each phase ends with one JSON line on stdout, and a rest follows it, in which
 * others may look at the server without being measured. The first tenth of the
 * readers is opened before anything is measured, so that what a server does
 * once (imports, pools) is not put down to its readers.
 *
 * A message is {"sent":"^<19 digits>","pad":"xxx"}: the digits are the time in
 * ns. Each reader must see each stamp once, in rising order.
 *
 * Exit status: 0 all arrived; 1 something is missing, repeated or lost;
 * 2 wrong usage; 3 the server refused.
 */
#define _GNU_SOURCE
#include "loadgen.h"

#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { CONNECTING_AT_ONCE = 128 };
static const double REST_S = 0.5, WARM_UP_S = 0.5;

struct options options = {
    .wire = WEBSOCKET, .path = "/subscribe", .publish_path = "/publish", .readers = 1000, .publishers = 1,
    .payload_bytes = 128, .in_flight = 4, .burst = 10, .rate = 20,
};

void fail(int status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(status);
}

/* ---- options ---- */

enum kind { TEXT, COUNT, SECONDS, WIRE, CURSOR, HELP };
static const struct { const char *name; enum kind kind; void *value; const char *meaning; } known[] = {
    {"wire", WIRE, &options.wire, "websocket (default), sse, stream, longpoll or socketio (over WebSocket)"},
    {"port", COUNT, &options.port, "port on 127.0.0.1"},
    {"path", TEXT, &options.path, "what readers ask for (/subscribe)"},
    {"publish-path", TEXT, &options.publish_path, "where messages are posted to (/publish)"},
    {"cursor", CURSOR, NULL, "longpoll: json (default), a \"position\" to send as after=; or headers, as Nchan"},
    {"pid", COUNT, &options.pid, "the server's process, to be measured with its children"},
    {"readers", COUNT, &options.readers, "connections (1000)"},
    {"publishers", COUNT, &options.publishers, "connections that messages are posted over, by turns (1)"},
    {"payload-bytes", COUNT, &options.payload_bytes, "size of a message (128)"},
    {"idle-s", SECONDS, &options.idle_s, "length of the idle phase (0)"},
    {"rate", SECONDS, &options.rate, "messages a second in the rate phase (20)"},
    {"rate-s", SECONDS, &options.rate_s, "length of the rate phase (0)"},
    {"in-flight", COUNT, &options.in_flight, "messages on their way in the saturate phase (4)"},
    {"saturate-s", SECONDS, &options.saturate_s, "length of the saturate phase (0)"},
    {"burst", COUNT, &options.burst, "messages of one burst (10)"},
    {"burst-s", SECONDS, &options.burst_s, "length of the burst phase (0)"},
    {"help", HELP, NULL, "this text"},
};
enum { KNOWN = sizeof known / sizeof known[0] };
static const char *const wire_names[WIRES] = {"websocket", "sse", "stream", "longpoll", "socketio"};

static void set_wire(const char *name)
{
    for (int wire = 0; wire < WIRES; wire++)
        if (!strcmp(name, wire_names[wire])) {
            options.wire = (enum wire)wire;
            return;
        }
    fail(WRONG_USAGE, "--wire: there is no %s", name);
}

static void set_option(int index, const char *text)
{
    char *end = NULL;
    double number = text ? strtod(text, &end) : 0;
    switch (known[index].kind) {
    case TEXT: *(const char **)known[index].value = text; return;
    case WIRE: set_wire(text); return;
    case CURSOR: options.cursor_in_headers = !strcmp(text, "headers"); return;
    case HELP:
        for (int i = 0; i < KNOWN; i++)
            printf("  --%-14s %s\n", known[i].name, known[i].meaning);
        exit(0);
    case COUNT: case SECONDS: break;
    }
    if (end == text || *end || !(number >= 0 && number <= 1e8))
        fail(WRONG_USAGE, "--%s: expected a number", known[index].name);
    if (known[index].kind == COUNT)
        *(long *)known[index].value = (long)number;
    else
        *(double *)known[index].value = number;
}

static void read_options(int argc, char **argv)
{
    struct option list[KNOWN + 1] = {0};
    int index, c;
    for (int i = 0; i < KNOWN; i++)
        list[i] = (struct option){known[i].name, known[i].kind != HELP, NULL, 0};
    while ((c = getopt_long(argc, argv, "", list, &index)) == 0)
        set_option(index, optarg);
    if (c == '?' || optind < argc)
        fail(WRONG_USAGE, "see --help");
    if (options.port < 1 || options.port > 65535)
        fail(WRONG_USAGE, "--port: expected 1 to 65535");
    if (options.payload_bytes < MIN_PAYLOAD_BYTES || options.payload_bytes > MAX_PAYLOAD_BYTES)
        fail(WRONG_USAGE, "--payload-bytes: expected %d to %d", MIN_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES);
    if (options.readers < 1 || options.in_flight < 1 || options.burst < 1 || options.rate <= 0)
        fail(WRONG_USAGE, "--readers, --in-flight, --burst and --rate: expected a number above 0");
    if (options.publishers < 1 || options.publishers > MAX_PUBLISHERS)
        fail(WRONG_USAGE, "--publishers: expected 1 to %d", MAX_PUBLISHERS);
    if (options.pid && !(server_cpu_s() > 0))
        fail(WRONG_USAGE, "--pid: there is no process %ld, or it may not be looked at", options.pid);
}

static void raise_file_limit(void)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if ((rlim_t)options.readers + 16 + MAX_PUBLISHERS > files.rlim_max)
        fail(WRONG_USAGE, "%ld readers need more open files than the hard limit allows (ulimit -Hn)",
             options.readers);
}

/* ---- messages ---- */

#define NO_STAMP "^0000000000000000000"
static struct { char *bytes, *digits; size_t length; } message;

/* The request is made once; only its digits change. */
static void prepare_message(void)
{
    int pad = (int)options.payload_bytes - (int)strlen("{\"sent\":\"" NO_STAMP "\",\"pad\":\"\"}");
    char xs[MAX_PAYLOAD_BYTES + 1];
    memset(xs, 'x', sizeof xs);
    int length = asprintf(&message.bytes,
                          "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%ld\r\nContent-Type: application/json\r\n"
                          "Content-Length: %ld\r\n\r\n{\"sent\":\"" NO_STAMP "\",\"pad\":\"%.*s\"}",
                          options.publish_path, options.port, options.payload_bytes, pad, xs);
    if (length < 0)
        fail(REFUSED, "out of memory");
    message.length = (size_t)length;
    message.digits = strstr(message.bytes, NO_STAMP) + 1;
}

static void publish(void)
{
    static uint64_t last_steps, number;
    char digits[STAMP_DIGITS + 2];
    uint64_t steps = now_ns() / MAX_PUBLISHERS + 1, publisher = number++ % (uint64_t)options.publishers;
    last_steps = steps > last_steps ? steps : last_steps + 1;   /* rising, however coarse the clock */
    snprintf(digits, sizeof digits, "%0*" PRIu64, STAMP_DIGITS, last_steps * MAX_PUBLISHERS + publisher);
    memcpy(message.digits, digits, STAMP_DIGITS);
    publisher_send(publisher, message.bytes, message.length);
}

/* ---- phases ---- */

static uint64_t published, missing_in_all, repeated_in_all;

static bool stuck(void)
{
    return now_ns() > last_progress_ns + STUCK_S * 1000000000ull;
}

static uint64_t in_s(double seconds)
{
    return now_ns() + (uint64_t)(seconds * 1e9);
}

static void begin_phase(void)
{
    memset(&tally, 0, sizeof tally);
    published = 0;
    latencies_wanted = false;
    phase_began_ns = last_progress_ns = now_ns();
}

static void rest(double seconds)
{
    for (uint64_t until = in_s(seconds); now_ns() < until;)
        run_events(10);
}

static void print_number(const char *name, double value)
{
    if (isfinite(value))
        printf(",\"%s\":%.10g", name, value);
}

static void end_line(void)
{
    puts("}");
    fflush(stdout);
    rest(REST_S);
}

static void open_readers(long count)
{
    begin_phase();
    while (ready_count < count) {
        while (opened_count < count && opened_count - ready_count < CONNECTING_AT_ONCE)
            open_reader();
        run_events(0);
        if (stuck())
            fail(REFUSED, "only %ld of %ld readers became ready", ready_count, options.readers);
    }
}

static void connect_phase(long unmeasured)
{
    double cpu_s = server_cpu_s(), count = (double)(options.readers - unmeasured);
    uint64_t began = now_ns();
    open_readers(options.readers);
    double seconds = (double)(now_ns() - began) / 1e9;
    printf("{\"phase\":\"connect\"");
    print_number("readers", count);
    print_number("handshakes_per_s", count / seconds);
    print_number("cpu_us_each", (server_cpu_s() - cpu_s) * 1e6 / count);
    end_line();
}

static void idle_phase(double memory_bytes, long unmeasured)
{
    begin_phase();
    double cpu_s = server_cpu_s();
    rest(options.idle_s);
    cpu_s = server_cpu_s() - cpu_s;
    memory_bytes = server_memory_bytes() - memory_bytes;
    printf("{\"phase\":\"idle\"");
    print_number("seconds", options.idle_s);
    print_number("cpu_percent", cpu_s * 100 / options.idle_s);
    print_number("memory_bytes_each", memory_bytes / (double)(options.readers - unmeasured));
    print_number("reads_each", (double)tally.reads / (double)options.readers);
    end_line();
}

/* The measured part of a phase with traffic. */
static struct { struct tally tally; double cpu_s; uint64_t began_ns; } window;

static void begin_window(void)
{
    latencies_clear();
    latencies_wanted = true;
    window.tally = tally;
    window.cpu_s = server_cpu_s();
    window.began_ns = now_ns();
}

static void print_window(const char *phase)
{
    double seconds = (double)(now_ns() - window.began_ns) / 1e9, cpu_s = server_cpu_s() - window.cpu_s;
    double deliveries = (double)(tally.deliveries - window.tally.deliveries);
    printf("{\"phase\":\"%s\"", phase);
    print_number("seconds", seconds);
    print_number("deliveries_per_s", deliveries / seconds);
    print_number("cpu_us_each", cpu_s * 1e6 / deliveries);
    print_number("cpu_percent", cpu_s * 100 / seconds);
    print_number("deliveries_per_read", deliveries / (double)(tally.reads - window.tally.reads));
    print_number("bytes_each", (double)(tally.bytes - window.tally.bytes) / deliveries);
}

/* Waits for what is still on its way; it counts in the latencies, not in the CPU per delivery. */
static void end_traffic(void)
{
    uint64_t expected = published * (uint64_t)options.readers;
    last_progress_ns = now_ns();
    while (tally.deliveries < expected && !stuck())
        run_events(0);
    print_number("p50_ms", latencies_ms(0.50));
    print_number("p99_ms", latencies_ms(0.99));
    print_number("max_ms", latencies_ms(1.00));
    print_number("published", (double)published);
    print_number("missing", (double)(expected - tally.deliveries));
    print_number("repeated", (double)tally.repeated);
    missing_in_all += expected - tally.deliveries;
    repeated_in_all += tally.repeated;
    end_line();
}

static void rate_phase(void)
{
    begin_phase();
    begin_window();
    uint64_t next = now_ns(), until = in_s(options.rate_s);
    for (; now_ns() < until; run_events(0)) {
        if (now_ns() < next)
            continue;
        publish();
        published++;
        next += (uint64_t)(1e9 / options.rate);
    }
    print_window("rate");
    end_traffic();
}

/* Keeps `groups` groups of `size` messages on their way. */
static void keep_on_their_way(uint64_t groups, uint64_t size, double seconds)
{
    for (uint64_t until = in_s(seconds); now_ns() < until && !stuck(); run_events(0)) {
        uint64_t arrived = tally.deliveries / (uint64_t)options.readers / size;
        while (published < (arrived + groups) * size) {
            publish();
            published++;
        }
    }
}

static void closed_loop_phase(const char *name, uint64_t groups, uint64_t size, double seconds)
{
    begin_phase();
    keep_on_their_way(groups, size, WARM_UP_S);
    begin_window();
    keep_on_their_way(groups, size, seconds);
    print_window(name);
    end_traffic();
}

static void connect_publishers(void)
{
    begin_phase();
    for (open_publishers(); !publishers_are_ready(); run_events(10))
        if (stuck())
            fail(REFUSED, "a publisher cannot connect");
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    raise_file_limit();
    prepare_message();
    wires_begin();

    long unmeasured = options.readers / 10;
    open_readers(unmeasured);
    rest(REST_S);
    double memory_bytes = server_memory_bytes();
    connect_phase(unmeasured);
    if (options.idle_s > 0)
        idle_phase(memory_bytes, unmeasured);
    connect_publishers();
    if (options.rate_s > 0)
        rate_phase();
    if (options.saturate_s > 0)
        closed_loop_phase("saturate", (uint64_t)options.in_flight, 1, options.saturate_s);
    if (options.burst_s > 0)
        closed_loop_phase("burst", 1, (uint64_t)options.burst, options.burst_s);

    bool complete = missing_in_all == 0 && repeated_in_all == 0 && lost_count == 0;
    if (!complete)
        fprintf(stderr, "loadgen: %" PRIu64 " deliveries missing, %" PRIu64 " repeated or out of order, "
                "%ld readers lost\n", missing_in_all, repeated_in_all, lost_count);
    return complete ? COMPLETE : INCOMPLETE;
}
