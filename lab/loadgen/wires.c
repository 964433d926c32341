/*
 * The connections: requests, frames, long polls, Socket.IO's greeting, and the search for stamps.
 *
 * Nothing is decoded that need not be. A stamp is "^" and 19 digits, which no
 * wire escapes, so it is looked for in the bytes as they come; only WebSocket
 * frames are taken apart, because pings want an answer. A chunked stream is
 * not: its chunk heads pass by unseen, as long as none cuts a stamp in two.
 */
#define _GNU_SOURCE
#include "loadgen.h"

#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* The sample key of RFC 6455 section 1.3, and its only right answer. */
#define SAMPLE_KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define SAMPLE_ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

#define UPGRADE_FIELDS "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" \
                       "Sec-WebSocket-Key: " SAMPLE_KEY "\r\n"

static const char *const request_fields[WIRES] = {
    [WEBSOCKET] = UPGRADE_FIELDS,
    [SOCKETIO] = UPGRADE_FIELDS,
    [SSE] = "Accept: text/event-stream\r\n",
    [STREAM] = "Accept: application/x-ndjson\r\n",
    [LONGPOLL] = "Accept: application/json\r\n",
};

enum {
    READERS_PER_ADDRESS = 8000, /* from 127.0.0.1, .2, …: each address has 28,000 ports to spend */
    LOSSES_EXPLAINED = 3,
    MAX_CONTROL_BYTES = 125,
};
enum opcode { TEXT = 1, CLOSE = 8, PING = 9, PONG = 10 };
enum state { CONNECTING, AWAITING_HEAD, GREETING, READY, LOST };    /* greeting: Socket.IO only */

/* The frame being read; a read may end anywhere in it. */
struct frame {
    uint8_t head[10], head_bytes, control_bytes;
    bool in_payload;
    uint64_t payload_left;
    char control[MAX_CONTROL_BYTES];    /* a control frame's payload; Socket.IO: how a text begins, too */
};

struct connection {
    int fd;
    enum state state;
    struct buffer unread;       /* a head or an answer that is not whole yet */
    struct frame frame;
    char cursor[288];           /* long poll: what the next request adds, to its fields or its path */
    uint8_t stamp_length;       /* of the stamp being read, with its "^" */
    uint64_t stamp, last_stamps[MAX_PUBLISHERS];
};

struct tally tally;
uint64_t phase_began_ns, last_progress_ns;
bool latencies_wanted;
long opened_count, ready_count, lost_count;

static int epoll;
static struct connection *readers, publishers[MAX_PUBLISHERS];
static uint64_t read_at_ns;     /* of the bytes now looked at */

static bool is_publisher(const struct connection *c)
{
    return c >= publishers && c < publishers + MAX_PUBLISHERS;
}

/* A reader lost after it was ready is counted; any other loss ends the run. */
static void lose(struct connection *c, const char *reason)
{
    if (c->state == LOST)
        return;
    if (is_publisher(c))
        fail(REFUSED, "a publisher's connection: %s", reason);
    if (c->state != READY)
        fail(REFUSED, "reader %td: %s", c - readers, reason);
    if (lost_count++ < LOSSES_EXPLAINED)
        fprintf(stderr, "loadgen: reader %td: %s\n", c - readers, reason);
    c->state = LOST;
    close(c->fd);
    buffer_free(&c->unread);
}

static void refuse(const char *head)
{
    const char *body = strstr(head, "\r\n\r\n");
    fail(REFUSED, "the server answered %.*s %.200s", (int)strcspn(head, "\r"), head, body ? body + 4 : "");
}

static void send_all(struct connection *c, const char *bytes, size_t length)
{
    while (length > 0 && c->state != LOST) {
        ssize_t sent = send(c->fd, bytes, length, MSG_NOSIGNAL);
        if (sent >= 0) {
            bytes += sent;
            length -= (size_t)sent;
        } else if (errno == EAGAIN) {
            struct pollfd writable = {.fd = c->fd, .events = POLLOUT};
            if (poll(&writable, 1, STUCK_S * 1000) == 0)
                fail(REFUSED, "the server has stopped reading");
        } else if (errno != EINTR) {
            lose(c, strerror(errno));
        }
    }
}

static void send_get(struct connection *c, const char *more_path, const char *more_fields)
{
    char request[2048];
    int length = snprintf(request, sizeof request, "GET %s%s HTTP/1.1\r\nHost: 127.0.0.1:%ld\r\n%s%s\r\n",
                          options.path, more_path, options.port, request_fields[options.wire], more_fields);
    if (length >= (int)sizeof request)
        fail(WRONG_USAGE, "the path is too long");
    send_all(c, request, (size_t)length);
}

/* ---- stamps ---- */

static void count_stamp(struct connection *c, uint64_t stamp)
{
    if (stamp < phase_began_ns)
        return;                 /* from before; that phase has counted it missing already */
    uint64_t *last_stamp = &c->last_stamps[stamp % MAX_PUBLISHERS];
    if (stamp <= *last_stamp) {
        tally.repeated++;       /* or out of order: each publisher's messages come in theirs */
        return;
    }
    *last_stamp = stamp;
    tally.deliveries++;
    last_progress_ns = read_at_ns;
    if (latencies_wanted)
        latencies_add(read_at_ns - stamp);
}

static void look_for_stamps(struct connection *c, const char *bytes, size_t length)
{
    const char *end = bytes + length;
    while (bytes < end) {
        if (c->stamp_length == 0) {
            bytes = memchr(bytes, '^', (size_t)(end - bytes));
            if (!bytes)
                return;
            bytes++;
            c->stamp_length = 1;
            c->stamp = 0;
        } else if (isdigit((unsigned char)*bytes)) {
            c->stamp = c->stamp * 10 + (uint64_t)(*bytes++ - '0');
            if (c->stamp_length++ == STAMP_DIGITS) {
                count_stamp(c, c->stamp);
                c->stamp_length = 0;
            }
        } else {
            c->stamp_length = 0;    /* some other "^" */
        }
    }
}

static void become_ready(struct connection *c)
{
    c->state = READY;
    last_progress_ns = now_ns();
    if (!is_publisher(c))
        ready_count++;
}

/* ---- WebSocket ---- */

static bool is_websocket(void)
{
    return options.wire == WEBSOCKET || options.wire == SOCKETIO;
}

/* What clients send is masked; a mask of zeros leaves the payload as it is. */
static void send_frame(struct connection *c, enum opcode opcode, const char *payload, size_t length)
{
    char frame[6 + MAX_CONTROL_BYTES] = {(char)(0x80 | opcode), (char)(0x80 | length)};
    memcpy(frame + 6, payload, length);
    send_all(c, frame, 6 + length);
}

static void send_text(struct connection *c, const char *text)
{
    send_frame(c, TEXT, text, strlen(text));
}

static uint8_t head_size(const struct frame *f)
{
    int length = f->head_bytes < 2 ? 0 : f->head[1] & 127;
    return length == 126 ? 4 : length == 127 ? 10 : 2;
}

static void begin_payload(struct frame *f)
{
    uint8_t size = head_size(f);
    if (f->head[1] & 128)
        fail(REFUSED, "the server masks its frames");
    if (f->head[0] & 8 && size > 2)
        fail(REFUSED, "the server sent a control frame that is too long");
    f->payload_left = size == 2 ? f->head[1] : 0;
    for (uint8_t i = 2; i < size; i++)
        f->payload_left = f->payload_left << 8 | f->head[i];
    f->in_payload = true;
}

static bool begins_with(const struct frame *f, const char *text)
{
    return f->control_bytes >= strlen(text) && !memcmp(f->control, text, strlen(text));
}

/*
 * Socket.IO over Engine.IO 4: the server opens (0), we ask for the namespace "/" (40), it agrees, we join the
 * room by an event with an acknowledgement, and are ready when that comes. Later: events, and pings (2).
 */
static void on_packet(struct connection *c)
{
    const struct frame *f = &c->frame;
    if (f->control_bytes == 1 && begins_with(f, "2"))
        send_text(c, "3");
    else if (c->state == READY)
        return;
    else if (begins_with(f, "0{"))
        send_text(c, "40");
    else if (begins_with(f, "40"))
        send_text(c, "420[\"subscribe\",\"bench\"]");
    else if (begins_with(f, "430[") && !memmem(f->control, f->control_bytes, "\"error\"", 7))
        become_ready(c);
    else
        fail(REFUSED, "the server greeted with %.*s", (int)f->control_bytes, f->control);
}

static void end_frame(struct connection *c)
{
    int opcode = c->frame.head[0] & 15;
    if (opcode == PING)
        send_frame(c, PONG, c->frame.control, c->frame.control_bytes);
    if (opcode == TEXT && options.wire == SOCKETIO)
        on_packet(c);
    if (opcode == CLOSE)
        lose(c, "the server sent a close frame");
    c->frame = (struct frame){0};
}

static void read_frames(struct connection *c, const char *bytes, size_t length)
{
    struct frame *f = &c->frame;
    while (length > 0 && c->state != LOST) {
        size_t part = 1;
        if (!f->in_payload) {
            f->head[f->head_bytes++] = (uint8_t)*bytes;
            if (f->head_bytes >= 2 && f->head_bytes == head_size(f))
                begin_payload(f);
        } else {
            part = length < f->payload_left ? length : (size_t)f->payload_left;
            if (f->head[0] & 8 || options.wire == SOCKETIO) {
                size_t room = MAX_CONTROL_BYTES - f->control_bytes, kept = part < room ? part : room;
                memcpy(f->control + f->control_bytes, bytes, kept);
                f->control_bytes += (uint8_t)kept;
            }
            if (!(f->head[0] & 8))
                look_for_stamps(c, bytes, part);
            f->payload_left -= part;
        }
        bytes += part;
        length -= part;
        if (f->in_payload && f->payload_left == 0)
            end_frame(c);
    }
}

static void read_stream(struct connection *c, const char *bytes, size_t length)
{
    if (is_websocket())
        read_frames(c, bytes, length);
    else
        look_for_stamps(c, bytes, length);
}

/* ---- answers ---- */

static void on_publish_answers(struct connection *c)
{
    struct answer a;
    while (take_answer(&c->unread, &a)) {
        if (a.status / 100 != 2)
            refuse(c->unread.bytes);
        buffer_remove(&c->unread, a.length);
    }
}

static void move_cursor(struct connection *c, const struct answer *a)
{
    char value[160], date[64];
    const char *head = c->unread.bytes;
    if (options.cursor_in_headers && field_of(head, "ETag", value, sizeof value)) {
        bool dated = field_of(head, "Last-Modified", date, sizeof date);    /* Nchan's cursor is both */
        snprintf(c->cursor, sizeof c->cursor, "If-None-Match: %s\r\n%s%s%s", value,
                 dated ? "If-Modified-Since: " : "", dated ? date : "", dated ? "\r\n" : "");
    } else if (!options.cursor_in_headers && json_member(a->body, "position", value, sizeof value)) {
        snprintf(c->cursor, sizeof c->cursor, "%cafter=%s", strchr(options.path, '?') ? '&' : '?', value);
    } else if (a->status == 200) {
        fail(REFUSED, "a long poll's answer has no position: %.300s", head);
    }
}

static void poll_again(struct connection *c)
{
    if (options.cursor_in_headers)
        send_get(c, "", c->cursor);
    else
        send_get(c, c->cursor, "");
}

static void on_poll_answer(struct connection *c)
{
    struct answer a;
    if (!take_answer(&c->unread, &a))
        return;
    bool nothing_new = a.status == 204 || a.status == 304 || a.status == 408;
    if (a.status != 200 && !nothing_new)
        refuse(c->unread.bytes);
    move_cursor(c, &a);
    look_for_stamps(c, a.body, a.length - (size_t)(a.body - c->unread.bytes));
    buffer_remove(&c->unread, a.length);
    poll_again(c);
}

static void on_head(struct connection *c)
{
    struct buffer all = c->unread;
    const char *end = strstr(all.bytes, "\r\n\r\n");
    if (!end)
        return;
    if (status_of(all.bytes) != (is_websocket() ? 101 : 200))
        refuse(all.bytes);
    if (is_websocket() && !strstr(all.bytes, SAMPLE_ACCEPT))
        fail(REFUSED, "Sec-WebSocket-Accept is wrong or missing");
    c->unread = (struct buffer){0};
    if (options.wire == SOCKETIO)
        c->state = GREETING;
    else
        become_ready(c);
    read_stream(c, end + 4, all.length - (size_t)(end + 4 - all.bytes));
    buffer_free(&all);
}

/* ---- the life of a connection ---- */

static void on_connected(struct connection *c)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error)
        lose(c, strerror(error));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
    if (is_publisher(c)) {
        become_ready(c);
    } else if (options.wire == LONGPOLL) {
        poll_again(c);
        become_ready(c);        /* nothing will tell, until there is something to answer */
    } else {
        send_get(c, "", "");
        c->state = AWAITING_HEAD;
    }
}

static void on_readable(struct connection *c)
{
    static char bytes[128 * 1024];
    ssize_t length = recv(c->fd, bytes, sizeof bytes, 0);
    if (length < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (length <= 0) {
        lose(c, length == 0 ? "the server closed the connection" : strerror(errno));
        return;
    }
    read_at_ns = now_ns();
    if (!is_publisher(c)) {
        tally.reads++;
        tally.bytes += (uint64_t)length;
        if (c->state >= GREETING && options.wire != LONGPOLL) {
            read_stream(c, bytes, (size_t)length);
            return;
        }
    }
    buffer_add(&c->unread, bytes, (size_t)length);
    if (is_publisher(c))
        on_publish_answers(c);
    else if (options.wire == LONGPOLL)
        on_poll_answer(c);
    else
        on_head(c);
}

static void open_from(struct connection *c, uint32_t source_address)
{
    int on = 1;
    struct linger reset = {.l_onoff = 1};   /* ended by RST: nothing stays in TIME_WAIT */
    struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(source_address)};
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                 .sin_port = htons((uint16_t)options.port)};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0)
        fail(REFUSED, "socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);    /* the port at connect() */
    if (bind(c->fd, (struct sockaddr *)&source, sizeof source) < 0)
        fail(REFUSED, "bind: %s", strerror(errno));
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) < 0 && errno != EINPROGRESS)
        lose(c, strerror(errno));
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event) < 0)
        fail(REFUSED, "epoll_ctl: %s", strerror(errno));
}

/*
 * Handles what is ready. With a timeout of 0 it spins instead of sleeping: who
 * sends to a sleeping process pays for waking it, and here that would be the
 * server.
 */
void run_events(int timeout_ms)
{
    struct epoll_event events[1024];
    int count = epoll_wait(epoll, events, 1024, timeout_ms);
    for (int i = 0; i < count; i++) {
        struct connection *c = events[i].data.ptr;
        if (c->state == CONNECTING)
            on_connected(c);
        else if (c->state != LOST)
            on_readable(c);
    }
    if (count == 0 && timeout_ms == 0)
        for (uint64_t until = now_ns() + 10000; now_ns() < until;) {
#if defined(__x86_64__) || defined(__i386__)
            __builtin_ia32_pause();     /* kinder to a hyperthread beside us */
#endif
        }
}

void wires_begin(void)
{
    epoll = epoll_create1(0);
    readers = calloc((size_t)options.readers, sizeof *readers);
    if (epoll < 0 || !readers)
        fail(REFUSED, "no memory, or no epoll");
}

void open_reader(void)
{
    uint32_t address = INADDR_LOOPBACK + (uint32_t)(opened_count / READERS_PER_ADDRESS);
    open_from(&readers[opened_count++], address);
}

void open_publishers(void)
{
    for (long i = 0; i < options.publishers; i++)
        open_from(&publishers[i], INADDR_LOOPBACK);
}

bool publishers_are_ready(void)
{
    for (long i = 0; i < options.publishers; i++)
        if (publishers[i].state != READY)
            return false;
    return true;
}

void publisher_send(uint64_t number, const char *bytes, size_t length)
{
    send_all(&publishers[number], bytes, length);
}
