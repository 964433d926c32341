/* HTTP answers and JSON fields, read as text. */
#define _GNU_SOURCE
#include "loadgen.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buffer_add(struct buffer *b, const char *bytes, size_t length)
{
    if (b->length + length + 1 > b->capacity) {
        b->capacity = b->length + length + 1024;
        b->bytes = realloc(b->bytes, b->capacity);
        if (!b->bytes)
            fail(REFUSED, "out of memory");
    }
    memcpy(b->bytes + b->length, bytes, length);
    b->length += length;
    b->bytes[b->length] = 0;
}

void buffer_remove(struct buffer *b, size_t length)
{
    b->length -= length;
    memmove(b->bytes, b->bytes + length, b->length + 1);
}

void buffer_free(struct buffer *b)
{
    free(b->bytes);
    *b = (struct buffer){0};
}

int status_of(const char *head)
{
    int status;
    return sscanf(head, "HTTP/1.%*1d %d", &status) == 1 ? status : 0;
}

/* The value of a header field. False if it is not there or does not fit. */
bool field_of(const char *head, const char *name, char *value, size_t size)
{
    char start[64];
    int start_length = snprintf(start, sizeof start, "\r\n%s:", name);
    const char *end = strstr(head, "\r\n\r\n"), *found = strcasestr(head, start);
    if (!end || !found || found >= end)
        return false;
    found += start_length;
    found += strspn(found, " \t");
    int length = (int)strcspn(found, "\r");
    return snprintf(value, size, "%.*s", length, found) < (int)size;
}

/* True if the buffer begins with a whole answer. */
bool take_answer(const struct buffer *b, struct answer *a)
{
    char value[32];
    const char *end = b->length > 0 ? strstr(b->bytes, "\r\n\r\n") : NULL;
    if (!end)
        return false;
    a->status = status_of(b->bytes);
    a->body = end + 4;
    a->length = (size_t)(a->body - b->bytes);
    if (a->status == 204 || a->status == 304)
        return true;
    if (field_of(b->bytes, "Content-Length", value, sizeof value)) {
        a->length += strtoul(value, NULL, 10);
    } else if (field_of(b->bytes, "Transfer-Encoding", value, sizeof value)) {
        const char *last = strstr(end, "\r\n0\r\n\r\n");    /* good enough: no body here has that inside */
        if (!last)
            return false;
        a->length = (size_t)(last + 7 - b->bytes);
    } else {
        fail(REFUSED, "an answer does not say how long it is: %.200s", b->bytes);
    }
    return a->length <= b->length;
}

/* The text or number of a member of the outermost object. False if it is not there or does not fit. */
bool json_member(const char *json, const char *name, char *value, size_t size)
{
    int depth = 0;
    size_t name_length = strlen(name);
    for (const char *at = json; *at; at++) {
        if (*at == '{' || *at == '[')
            depth++;
        else if (*at == '}' || *at == ']')
            depth--;
        if (*at != '"')
            continue;
        const char *text = ++at;
        for (; *at && *at != '"'; at++)
            if (*at == '\\' && at[1])
                at++;
        if (!*at)
            return false;
        if (depth != 1 || at[1] != ':' || (size_t)(at - text) != name_length || memcmp(text, name, name_length))
            continue;
        const char *start = at + 2 + strspn(at + 2, " ");
        start += *start == '"';
        size_t length = strcspn(start, "\",}");
        return length > 0 && length < size && snprintf(value, size, "%.*s", (int)length, start) > 0;
    }
    return false;
}
