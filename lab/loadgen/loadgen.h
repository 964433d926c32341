/*
 * What the parts of the load generator know of each other.
 *
 *   main.c      options, phases, what is printed
 *   wires.c     connections: requests, frames, long polls, the search for stamps
 *   http.c      HTTP answers and JSON fields, as text
 *   measure.c   clock, latencies; CPU and memory of the server
 */
#ifndef LOADGEN_H
#define LOADGEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { COMPLETE = 0, INCOMPLETE = 1, WRONG_USAGE = 2, REFUSED = 3 };  /* exit statuses */
enum {
    STAMP_DIGITS = 19,
    MIN_PAYLOAD_BYTES = 40,     /* {"sent":"^<19 digits>","pad":""} */
    MAX_PAYLOAD_BYTES = 60000,
    MAX_PUBLISHERS = 16,        /* a stamp's remainder by this says which one sent it */
    STUCK_S = 5,                /* without any progress a phase ends */
};

enum wire { WEBSOCKET, SSE, STREAM, LONGPOLL, SOCKETIO, WIRES };

struct options {
    enum wire wire;
    const char *path, *publish_path;
    bool cursor_in_headers;     /* long poll: Last-Modified and ETag, as Nchan; else JSON "position" */
    long port, pid, readers, publishers, payload_bytes, in_flight, burst;
    double idle_s, rate, rate_s, saturate_s, burst_s;
};
extern struct options options;

_Noreturn void fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- http.c: no sockets here ---- */

/* Bytes not dealt with yet. A zero byte follows them, so that they can be searched as text. */
struct buffer { char *bytes; size_t length, capacity; };
void buffer_add(struct buffer *b, const char *bytes, size_t length);
void buffer_remove(struct buffer *b, size_t length);
void buffer_free(struct buffer *b);

struct answer { int status; const char *body; size_t length; };     /* length: with the head */
bool take_answer(const struct buffer *b, struct answer *a);
int status_of(const char *head);
bool field_of(const char *head, const char *name, char *value, size_t size);
bool json_member(const char *json, const char *name, char *value, size_t size);

/* ---- measure.c ---- */

uint64_t now_ns(void);
void latencies_clear(void);
void latencies_add(uint64_t ns);
double latencies_ms(double fraction);       /* 1.0 is the longest; NAN when there is none */
double server_cpu_s(void);                  /* NAN without a pid */
double server_memory_bytes(void);

/* ---- wires.c ---- */

/* Counted since the phase began, and, as `window`, since its measured part began. */
struct tally { uint64_t deliveries, repeated, reads, bytes; };
extern struct tally tally;
extern uint64_t phase_began_ns, last_progress_ns;
extern bool latencies_wanted;
extern long opened_count, ready_count, lost_count;

void wires_begin(void);
void open_reader(void);
void open_publishers(void);
bool publishers_are_ready(void);
void publisher_send(uint64_t number, const char *bytes, size_t length);
void run_events(int timeout_ms);            /* 0: never sleeps */

#endif
