/*
 * baseline - the least that a fan-out server can cost.
 *
 *   usage: baseline PORT           listens on 127.0.0.1
 *
 * One thread and one epoll; a message is framed once and handed to one send(2)
 * per reader. There is no log, no queue, no position, no limit. Whatever a
 * server pays above this is the price of being a server.
 *
 *   GET, Upgrade: websocket   a WebSocket reader
 *   GET                       an SSE reader
 *   POST                      publishes its body to all of them
 *
 * It trusts its client, the load generator: heads come in one piece, WebSocket
 * keys are the sample of RFC 6455 section 1.3, what readers send is ignored.
 * A reader whose socket is full is dropped.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_BODY = 65535, MAX_UNREAD = 512 * 1024, MAX_EVENTS = 256, MAX_FILES = 1000000 };
enum role { UNKNOWN, WEBSOCKET, SSE, PUBLISHER, ROLES };

static const char *const greetings[ROLES] = {
    [WEBSOCKET] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                  "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    [SSE] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n",
};
static const char published[] = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";

/* What is known of a connection, at the index of its file descriptor. */
static struct connection {
    enum role role;
    size_t place;           /* a reader's, among those of its role */
    char *unread;           /* a publisher's bytes that are no whole request yet */
    size_t unread_bytes;
} *connections;

/* The descriptors of each role's readers lie side by side, so that a fan-out is a plain loop. */
static struct readers { int *fds; size_t count; } readers[ROLES];

static void stop(const char *what)
{
    fprintf(stderr, "baseline: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void add_reader(int fd, enum role role)
{
    struct readers *all = &readers[role];
    connections[fd].role = role;
    connections[fd].place = all->count;
    all->fds[all->count++] = fd;
    send(fd, greetings[role], strlen(greetings[role]), MSG_NOSIGNAL);
}

static void drop(int fd)
{
    struct connection *c = &connections[fd];
    if (c->role == WEBSOCKET || c->role == SSE) {
        struct readers *all = &readers[c->role];
        int moved = all->fds[--all->count];     /* the last one fills the hole */
        all->fds[c->place] = moved;
        connections[moved].place = c->place;
    }
    free(c->unread);
    *c = (struct connection){0};
    close(fd);
}

static void fan_out(enum role role, const char *bytes, size_t length)
{
    struct readers *all = &readers[role];
    for (size_t i = all->count; i-- > 0;)       /* from the end, since drop() moves the last one */
        if (send(all->fds[i], bytes, length, MSG_NOSIGNAL) != (ssize_t)length)
            drop(all->fds[i]);
}

static void publish(const char *body, size_t length)
{
    static char out[MAX_BODY + 16];
    size_t n = 0;
    if (readers[WEBSOCKET].count > 0) {
        out[n++] = (char)0x81;                  /* FIN, text */
        if (length > 125) {
            out[n++] = 126;
            out[n++] = (char)(length >> 8);
        }
        out[n++] = (char)length;
        memcpy(out + n, body, length);
        fan_out(WEBSOCKET, out, n + length);
    }
    if (readers[SSE].count > 0) {
        n = (size_t)snprintf(out, sizeof out, "data: %.*s\n\n", (int)length, body);
        fan_out(SSE, out, n);
    }
}

/* Publishes the body of the first request. Returns the request's size, or 0 if it is not whole. */
static size_t take_request(int fd, const char *text, size_t available)
{
    const char *field = strcasestr(text, "\r\nContent-Length:"), *end = strstr(text, "\r\n\r\n");
    if (!end || !field)
        return 0;
    size_t head = (size_t)(end + 4 - text), body = strtoul(field + 17, NULL, 10);
    if (body > MAX_BODY || available < head + body)
        return 0;
    publish(text + head, body);
    send(fd, published, sizeof published - 1, MSG_NOSIGNAL);
    return head + body;
}

static void read_requests(int fd, const char *bytes, size_t length)
{
    struct connection *c = &connections[fd];
    if (!c->unread && !(c->unread = malloc(MAX_UNREAD + 1)))
        stop("malloc");
    if (c->unread_bytes + length > MAX_UNREAD) {
        drop(fd);
        return;
    }
    memcpy(c->unread + c->unread_bytes, bytes, length);
    c->unread_bytes += length;
    c->unread[c->unread_bytes] = 0;

    size_t done = 0, size;
    while ((size = take_request(fd, c->unread + done, c->unread_bytes - done)) > 0)
        done += size;
    c->unread_bytes -= done;
    memmove(c->unread, c->unread + done, c->unread_bytes + 1);
}

static void on_readable(int fd)
{
    static char bytes[64 * 1024 + 1];
    ssize_t length = recv(fd, bytes, sizeof bytes - 1, 0);
    if (length < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (length <= 0) {
        drop(fd);
        return;
    }
    bytes[length] = 0;
    if (connections[fd].role == UNKNOWN && !strncmp(bytes, "POST ", 5))
        connections[fd].role = PUBLISHER;
    if (connections[fd].role == PUBLISHER)
        read_requests(fd, bytes, (size_t)length);
    else if (connections[fd].role == UNKNOWN)
        add_reader(fd, strcasestr(bytes, "\r\nUpgrade: websocket") ? WEBSOCKET : SSE);
}

static void accept_all(int listener, int epoll)
{
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
}

static int listen_on(const char *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    address.sin_port = htons((uint16_t)atoi(port));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 4096) < 0)
        stop("listen");
    return fd;
}

static void make_room(void)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max < MAX_FILES ? files.rlim_max : MAX_FILES;
    setrlimit(RLIMIT_NOFILE, &files);
    connections = calloc(files.rlim_cur, sizeof *connections);
    readers[WEBSOCKET].fds = calloc(files.rlim_cur, sizeof(int));
    readers[SSE].fds = calloc(files.rlim_cur, sizeof(int));
    if (!connections || !readers[WEBSOCKET].fds || !readers[SSE].fds)
        stop("calloc");
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: baseline PORT\n");
        return 2;
    }
    struct epoll_event events[MAX_EVENTS];
    make_room();
    int epoll = epoll_create1(0), listener = listen_on(argv[1]);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(epoll, events, MAX_EVENTS, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == listener)
                accept_all(listener, epoll);
            else
                on_readable(events[i].data.fd);
        }
    }
}
