/* The clock, the latencies, and what the server uses, as /proc tells it. */
#define _GNU_SOURCE
#include "loadgen.h"

#include <glob.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- latencies: a histogram whose buckets are 1/64 of a power of two wide ---- */

enum { STEPS = 64, STEP_BITS = 6, BUCKETS = STEPS * 40 };
static struct { uint64_t in_bucket[BUCKETS], count, longest_ns; } latencies;

void latencies_clear(void)
{
    memset(&latencies, 0, sizeof latencies);
}

void latencies_add(uint64_t ns)
{
    size_t bucket = ns;
    if (ns >= STEPS) {
        int shift = 63 - STEP_BITS - __builtin_clzll(ns);      /* what is left is 64 to 127 */
        bucket = (size_t)shift * STEPS + (ns >> shift);
    }
    latencies.in_bucket[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    latencies.count++;
    if (ns > latencies.longest_ns)
        latencies.longest_ns = ns;
}

double latencies_ms(double fraction)
{
    if (latencies.count == 0)
        return NAN;
    uint64_t seen = 0;
    for (size_t i = 0; i < BUCKETS && fraction < 1; i++) {
        seen += latencies.in_bucket[i];
        if ((double)seen > fraction * (double)latencies.count) {
            size_t shift = i < STEPS ? 0 : i / STEPS - 1;
            return (double)((i - shift * STEPS) << shift) / 1e6;
        }
    }
    return (double)latencies.longest_ns / 1e6;
}

/* ---- the server and its children ---- */

static double cpu_s_of(long pid);
static double memory_bytes_of(long pid);

/* Sums what `value_of` finds in one file of every thread of a process. */
static double sum_over_threads(long pid, const char *name, double (*value_of)(FILE *))
{
    char pattern[64];
    glob_t found;
    double sum = 0;
    snprintf(pattern, sizeof pattern, "/proc/%ld/task/[0-9]*/%s", pid, name);
    if (glob(pattern, 0, NULL, &found) != 0)
        return 0;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        FILE *file = fopen(found.gl_pathv[i], "r");
        if (!file)
            continue;           /* the thread has ended */
        sum += value_of(file);
        fclose(file);
    }
    globfree(&found);
    return sum;
}

/* schedstat begins with the ns on a CPU; /proc/PID/stat has nothing finer than ticks of 10 ms. */
static double cpu_s_in(FILE *schedstat)
{
    uint64_t ns;
    return fscanf(schedstat, "%" SCNu64, &ns) == 1 ? (double)ns / 1e9 : 0;
}

static double cpu_s_of_children(FILE *children)
{
    double sum = 0;
    for (long pid; fscanf(children, "%ld", &pid) == 1;)
        sum += cpu_s_of(pid);
    return sum;
}

static double memory_bytes_of_children(FILE *children)
{
    double sum = 0;
    for (long pid; fscanf(children, "%ld", &pid) == 1;)
        sum += memory_bytes_of(pid);
    return sum;
}

static double cpu_s_of(long pid)
{
    return sum_over_threads(pid, "schedstat", cpu_s_in) + sum_over_threads(pid, "children", cpu_s_of_children);
}

/* Pss: resident pages, those shared by n processes counted as 1/n in each. */
static double memory_bytes_of(long pid)
{
    char path[64], line[256];
    double kilobytes = 0;
    snprintf(path, sizeof path, "/proc/%ld/smaps_rollup", pid);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file) && sscanf(line, "Pss: %lf", &kilobytes) != 1)
        ;
    if (file)
        fclose(file);
    return kilobytes * 1024 + sum_over_threads(pid, "children", memory_bytes_of_children);
}

double server_cpu_s(void)
{
    return options.pid ? cpu_s_of(options.pid) : NAN;
}

double server_memory_bytes(void)
{
    return options.pid ? memory_bytes_of(options.pid) : NAN;
}
