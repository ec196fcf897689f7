/* An emulated libcuda.so.1 for tests.
 *
 * Implements, over ordinary host memory, the part of the public CUDA driver API (as declared in cuda.h) that an
 * inference runtime needs: device query, contexts, device and page-locked host memory, copies, memsets, streams,
 * events, host functions, graphs captured from a stream. Everything else in cuda.h is a generated weak stub that returns CUDA_ERROR_NOT_SUPPORTED.
 * README.md says what it is for, how to steer it, and where it differs from a GPU.
 *
 * One lock guards all state. Each stream has a worker thread and an ordered queue of operations; each operation has a
 * ticket that events, other streams and the host can wait for.
 */
#define _GNU_SOURCE
#include <cuda.h>
#include <cudaProfiler.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* ------------------------------------------------------------------ state */
static pthread_mutex_t G = PTHREAD_MUTEX_INITIALIZER; /* guards everything  */
static pthread_cond_t CV = PTHREAD_COND_INITIALIZER;  /* any ticket is done */

typedef struct ticket {
    int done;
    int refs;
    double t_done;
    struct CUstream_st *s;
} ticket;

enum opkind { OP_COPY, OP_SET8, OP_SET16, OP_SET32, OP_MARK, OP_HOSTFN, OP_CALLBACK, OP_COPY2D, OP_FAULT, OP_QUIT };
enum dir { H2D, D2H, D2D };
typedef struct op {
    enum opkind kind;
    void *dst;
    const void *src;
    size_t n;
    unsigned val;
    size_t dpitch, spitch, w, h;
    int free_src; /* staged pageable source */
    /* as the caller named them: a graph looks them up again at every launch */
    const void *named_dst, *named_src;
    enum dir dir;
    CUhostFn fn;
    CUstreamCallback cb;
    void *ud;
    CUstream cbstream;
    ticket *tk;
    ticket **deps;
    int ndeps;
    int go;
    struct op *next;
} op;

#define MAGIC_STREAM 0x53545231
#define MAGIC_EVENT 0x45564e54
#define MAGIC_CTX 0x43545831
#define MAGIC_GRAPH 0x47525048
#define MAGIC_EXEC 0x47455845
struct CUctx_st {
    int magic;
    unsigned flags;
    int primary;
    int refs;
    CUresult error; /* like a GPU's: once work has failed, every call of the context does */
};
struct CUstream_st {
    int magic;
    struct CUctx_st *ctx;
    unsigned flags;
    int prio;
    op *head, *tailop;
    ticket *last;
    pthread_t th;
    pthread_cond_t cv;
    struct CUgraph_st *capture; /* what the stream is captured into */
    CUstreamCaptureMode capture_mode;
    pthread_t capture_thread;
    struct CUstream_st *next;
};
struct CUgraph_st {
    int magic;
    int invalid; /* a call that a capture forbids was made */
    op *head, *tail;
};
struct CUgraphExec_st {
    int magic;
    op *head;
    ticket *last;
};
struct CUevent_st {
    int magic;
    struct CUctx_st *ctx;
    unsigned flags;
    int captured; /* recorded into a graph: nothing to wait for */
    ticket *tk;
};

typedef struct alloc {
    CUdeviceptr va;
    size_t size, mapped;
    char *host;
    struct CUctx_st *ctx;
    int live;
    ticket **deps;
    int ndeps;
    struct alloc *next;
} alloc;
typedef struct pin {
    char *p;
    size_t size;
    unsigned flags;
    int registered;
    int live;
    struct CUctx_st *ctx;
    ticket **deps;
    int ndeps;
    struct pin *next;
} pin;

static int inited;
static alloc *allocs;
static pin *pins;
static struct CUstream_st *streams;
static struct CUctx_st *primary;
static unsigned primary_flags;
static struct CUctx_st *ctxs[256];
static int nctx;
static size_t mem_total, mem_used;
static double latency_s = 2000e-6, bytes_per_s = 12e9;
static int poison = 1, lazy;
static long st_alloc, st_free, st_pin_alloc, st_pin_free, st_async, st_async_pageable, st_sync;
static long st_streams, st_events, st_early_free, st_executed;
static long st_graphs, st_captures, st_graph_launches;

/* Faults that a test asks for: calls (or work in a stream) at this point fail, after some that do not. */
static const char *const points[] = {"alloc", "pinned", "h2d", "d2h", "launch", "sync", "push", "stream",
                                     "capture", "instantiate", "graph"};
enum point {
    AT_ALLOC, AT_PINNED, AT_H2D, AT_D2H, AT_LAUNCH, AT_SYNC, AT_PUSH, AT_STREAM, AT_CAPTURE, AT_INSTANTIATE, AT_GRAPH,
    N_POINTS
};
static struct {
    long times, after;
    CUresult result;
} faults[N_POINTS];
static CUresult fault(enum point p) { /* G held */
    if (!faults[p].times || faults[p].after-- > 0)
        return CUDA_SUCCESS;
    faults[p].times--;
    return faults[p].result;
}

#define STACK 4096 /* a thread of a long test run pushes many */
static __thread struct CUctx_st *stack[STACK];
static __thread int sp;
static struct CUctx_st *cur(void) {
    return sp ? stack[sp - 1] : NULL;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}
static void nap(double s) {
    if (s <= 0)
        return;
    struct timespec t = {(time_t)s, (long)((s - (time_t)s) * 1e9)};
    nanosleep(&t, NULL);
}
static double envd(const char *k, double d) {
    const char *v = getenv(k);
    return v && *v ? atof(v) : d;
}

static ticket *tk_new(void) {
    ticket *t = calloc(1, sizeof *t);
    t->refs = 1;
    return t;
}
static ticket *tk_ref(ticket *t) {
    if (t)
        t->refs++;
    return t;
}
static void tk_unref(ticket *t) {
    if (t && --t->refs == 0)
        free(t);
}
static void tk_wait(ticket *t) {
    if (!t)
        return;
    tk_ref(t);
    while (!t->done)
        pthread_cond_wait(&CV, &G);
    tk_unref(t);
}

/* CUEMU_LAZY=1: queued work starts only when the host waits for (or queries) something that
 * needs it, so a missing synchronize is seen every time, whatever the machine's load. */
static void release(ticket *t);
static void host_wait(ticket *t) {
    if (!t)
        return;
    release(t);
    tk_wait(t);
}

#define NEED_INIT()                                                                                                    \
    do {                                                                                                               \
        if (!inited)                                                                                                   \
            return CUDA_ERROR_NOT_INITIALIZED;                                                                         \
    } while (0)
#define NEED_CTX()                                                                                                     \
    do {                                                                                                               \
        NEED_INIT();                                                                                                   \
        if (!cur())                                                                                                    \
            return CUDA_ERROR_INVALID_CONTEXT;                                                                         \
        if (cur()->magic != MAGIC_CTX)                                                                                 \
            return CUDA_ERROR_CONTEXT_IS_DESTROYED;                                                                    \
        if (cur()->error)                                                                                              \
            return cur()->error;                                                                                       \
    } while (0)
#define NEED(x)                                                                                                        \
    do {                                                                                                               \
        if (!(x))                                                                                                      \
            return CUDA_ERROR_INVALID_VALUE;                                                                           \
    } while (0)

/* ---------------------------------------------------------------- streams */
static void *worker(void *arg) {
    struct CUstream_st *s = arg;
    pthread_mutex_lock(&G);
    for (;;) {
        while (!s->head || (lazy && !s->head->go))
            pthread_cond_wait(&s->cv, &G);
        op *o = s->head;
        for (int i = 0; i < o->ndeps; i++) {
            tk_wait(o->deps[i]);
            tk_unref(o->deps[i]);
        }
        free(o->deps);
        o->deps = NULL;
        o->ndeps = 0;
        int work = o->kind != OP_MARK && o->kind != OP_QUIT;
        if (work && !s->ctx->error)
            s->ctx->error = fault(AT_STREAM);
        int failed = s->ctx->error != CUDA_SUCCESS;
        st_executed += work && !failed;
        pthread_mutex_unlock(&G);
        if (failed && o->free_src)
            free((void *)o->src);
        switch (failed && work ? OP_MARK : o->kind) {
        case OP_COPY:
            nap(latency_s + o->n / bytes_per_s);
            memmove(o->dst, o->src, o->n);
            if (o->free_src)
                free((void *)o->src);
            break;
        case OP_COPY2D:
            nap(latency_s + o->w * o->h / bytes_per_s);
            for (size_t r = 0; r < o->h; r++)
                memmove((char *)o->dst + r * o->dpitch, (const char *)o->src + r * o->spitch, o->w);
            break;
        case OP_SET8:
            nap(latency_s);
            memset(o->dst, (int)o->val, o->n);
            break;
        case OP_SET16:
            nap(latency_s);
            for (size_t i = 0; i < o->n; i++)
                ((uint16_t *)o->dst)[i] = (uint16_t)o->val;
            break;
        case OP_SET32:
            nap(latency_s);
            for (size_t i = 0; i < o->n; i++)
                ((uint32_t *)o->dst)[i] = o->val;
            break;
        case OP_HOSTFN:
            o->fn(o->ud);
            break;
        case OP_CALLBACK:
            o->cb(o->cbstream, CUDA_SUCCESS, o->ud);
            break;
        case OP_FAULT:
        case OP_MARK:
        case OP_QUIT:
            break;
        }
        pthread_mutex_lock(&G);
        if (o->kind == OP_FAULT && !failed)
            s->ctx->error = CUDA_ERROR_ILLEGAL_ADDRESS;
        o->tk->t_done = now();
        o->tk->done = 1;
        tk_unref(o->tk);
        s->head = o->next;
        if (!s->head)
            s->tailop = NULL;
        int quit = o->kind == OP_QUIT;
        free(o);
        pthread_cond_broadcast(&CV);
        if (quit)
            break;
    }
    pthread_mutex_unlock(&G);
    return NULL;
}

static struct CUstream_st *stream_new(struct CUctx_st *c, unsigned flags, int prio) {
    struct CUstream_st *s = calloc(1, sizeof *s);
    s->magic = MAGIC_STREAM;
    s->ctx = c;
    s->flags = flags;
    s->prio = prio;
    pthread_cond_init(&s->cv, NULL);
    s->next = streams;
    streams = s;
    pthread_create(&s->th, NULL, worker, s);
    pthread_detach(s->th);
    return s;
}
#define F_LEGACY 0x80000000u
static struct CUstream_st *legacy(struct CUctx_st *c) {
    for (struct CUstream_st *s = streams; s; s = s->next)
        if (s->ctx == c && s->magic == MAGIC_STREAM && (s->flags & F_LEGACY))
            return s;
    return stream_new(c, F_LEGACY, 0);
}
static struct CUstream_st *find_stream(CUstream h) { /* NULL: invalid handle */
    if (!h || h == CU_STREAM_LEGACY || h == CU_STREAM_PER_THREAD)
        return legacy(cur());
    for (struct CUstream_st *s = streams; s; s = s->next)
        if (s == h)
            return s->magic == MAGIC_STREAM ? s : NULL;
    return NULL;
}
static void add_dep(op *o, ticket *t) {
    if (!t || t->done)
        return;
    o->deps = realloc(o->deps, sizeof(ticket *) * (o->ndeps + 1));
    o->deps[o->ndeps++] = tk_ref(t);
}
static ticket *enqueue(struct CUstream_st *s, op *o) { /* G held; ticket is borrowed; NULL: captured, does not run */
    if (s->capture) {
        struct CUgraph_st *g = s->capture;
        if (g->tail)
            g->tail->next = o;
        else
            g->head = o;
        g->tail = o;
        return NULL;
    }
    if (s->flags & F_LEGACY) {
        for (struct CUstream_st *x = streams; x; x = x->next)
            if (x != s && x->ctx == s->ctx && !(x->flags & CU_STREAM_NON_BLOCKING))
                add_dep(o, x->last);
    } else if (!(s->flags & CU_STREAM_NON_BLOCKING)) {
        for (struct CUstream_st *l = streams; l; l = l->next)
            if (l->ctx == s->ctx && (l->flags & F_LEGACY))
                add_dep(o, l->last);
    }
    o->tk = tk_new();
    o->tk->s = s;
    tk_unref(s->last);
    s->last = tk_ref(o->tk);
    if (s->tailop)
        s->tailop->next = o;
    else
        s->head = o;
    s->tailop = o;
    pthread_cond_signal(&s->cv);
    return s->last;
}
static void release(ticket *t) {
    if (!lazy || !t || t->done)
        return;
    for (op *o = t->s->head; o; o = o->next) {
        if (!o->go) {
            o->go = 1;
            for (int i = 0; i < o->ndeps; i++)
                release(o->deps[i]);
        }
        if (o->tk == t)
            break;
    }
    pthread_cond_signal(&t->s->cv);
}
static op *op_new(enum opkind k) {
    op *o = calloc(1, sizeof *o);
    o->kind = k;
    return o;
}

/* Capture forbids waiting on the stream, and some calls to the thread that captures (or to all): they break it. */
static CUresult broken(struct CUstream_st *s) {
    s->capture->invalid = 1;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}
static CUresult forbidden_here(void) { /* G held */
    CUresult r = CUDA_SUCCESS;
    for (struct CUstream_st *s = streams; s; s = s->next)
        if (s->capture && (s->capture_mode == CU_STREAM_CAPTURE_MODE_GLOBAL ||
                           (s->capture_mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL &&
                            pthread_equal(s->capture_thread, pthread_self()))))
            r = broken(s);
    return r;
}

static void wait_stream(struct CUstream_st *s) {
    if (s->flags & F_LEGACY)
        for (struct CUstream_st *x = streams; x; x = x->next)
            if (x->ctx == s->ctx && !(x->flags & CU_STREAM_NON_BLOCKING))
                host_wait(x->last);
    host_wait(s->last);
}
static void wait_ctx(struct CUctx_st *c) {
    for (struct CUstream_st *x = streams; x; x = x->next)
        if (x->ctx == c)
            host_wait(x->last);
}
static void all_tails(ticket ***deps, int *n) {
    for (struct CUstream_st *x = streams; x; x = x->next)
        if (x->last && !x->last->done) {
            *deps = realloc(*deps, sizeof(ticket *) * (*n + 1));
            (*deps)[(*n)++] = tk_ref(x->last);
        }
}
/* A buffer is freed while queued work still uses it: a GPU waits or faults, here it is counted. */
static void count_early_free(const char *p, size_t n) {
    for (struct CUstream_st *x = streams; x; x = x->next)
        for (op *o = x->head; o; o = o->next)
            if (((char *)o->dst >= p && (char *)o->dst < p + n) || ((char *)o->src >= p && (char *)o->src < p + n)) {
                st_early_free++;
                return;
            }
}
static int deps_done(ticket **deps, int n) {
    for (int i = 0; i < n; i++)
        if (!deps[i]->done)
            return 0;
    return 1;
}
static void deps_drop(ticket **deps, int n) {
    for (int i = 0; i < n; i++)
        tk_unref(deps[i]);
    free(deps);
}

/* reclaim memory that was freed while work was queued */
static void reclaim(void) {
    for (alloc **pp = &allocs; *pp;) {
        alloc *a = *pp;
        if (!a->live && deps_done(a->deps, a->ndeps)) {
            deps_drop(a->deps, a->ndeps);
            munmap((void *)a->va, a->mapped);
            munmap(a->host, a->mapped);
            *pp = a->next;
            free(a);
        } else
            pp = &a->next;
    }
    for (pin **pp = &pins; *pp;) {
        pin *a = *pp;
        if (!a->live && deps_done(a->deps, a->ndeps)) {
            deps_drop(a->deps, a->ndeps);
            if (!a->registered)
                free(a->p);
            *pp = a->next;
            free(a);
        } else
            pp = &a->next;
    }
}

/* ----------------------------------------------------------------- memory */
static char *dev(CUdeviceptr p, size_t n) { /* device range -> backing, or NULL */
    for (alloc *a = allocs; a; a = a->next)
        if (a->live && p >= a->va && p - a->va <= a->size && n <= a->size - (p - a->va))
            return a->host + (p - a->va);
    for (pin *a = pins; a; a = a->next) /* UVA: mapped pinned memory */
        if (a->live && (char *)p >= a->p && (char *)p + n <= a->p + a->size)
            return (char *)p;
    return NULL;
}
static pin *find_pin(const void *p, size_t n) {
    for (pin *a = pins; a; a = a->next)
        if (a->live && (char *)p >= a->p && (char *)p + n <= a->p + a->size)
            return a;
    return NULL;
}
static int is_dev_va(const void *p) {
    for (alloc *a = allocs; a; a = a->next)
        if (a->live && (CUdeviceptr)p >= a->va && (CUdeviceptr)p < a->va + a->size)
            return 1;
    return 0;
}

static CUresult dev_alloc(CUdeviceptr *out, size_t n) {
    reclaim();
    CUresult asked = forbidden_here();
    if (!asked)
        asked = fault(AT_ALLOC);
    if (asked)
        return asked;
    size_t m = (n + 4095) & ~(size_t)4095;
    if (mem_used + m > mem_total)
        return CUDA_ERROR_OUT_OF_MEMORY;
    void *va = mmap(NULL, m, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    void *h = mmap(NULL, m, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (va == MAP_FAILED || h == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (poison)
        memset(h, 0xCD, m);
    alloc *a = calloc(1, sizeof *a);
    a->va = (CUdeviceptr)va;
    a->size = n;
    a->mapped = m;
    a->host = h;
    a->ctx = cur();
    a->live = 1;
    a->next = allocs;
    allocs = a;
    mem_used += m;
    st_alloc++;
    *out = a->va;
    return CUDA_SUCCESS;
}
static CUresult dev_free(CUdeviceptr p) {
    for (alloc *a = allocs; a; a = a->next)
        if (a->live && a->va == p) {
            a->live = 0;
            mem_used -= a->mapped;
            st_free++;
            count_early_free(a->host, a->size);
            all_tails(&a->deps, &a->ndeps);
            reclaim();
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_INVALID_VALUE;
}
static CUresult host_alloc(void **pp, size_t n, unsigned flags) {
    void *p;
    CUresult asked = forbidden_here();
    if (!asked)
        asked = fault(AT_PINNED);
    if (asked)
        return asked;
    if (posix_memalign(&p, 4096, n ? n : 1))
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (poison)
        memset(p, 0xCE, n);
    pin *a = calloc(1, sizeof *a);
    a->p = p;
    a->size = n;
    a->flags = flags;
    a->live = 1;
    a->ctx = cur();
    a->next = pins;
    pins = a;
    st_pin_alloc++;
    *pp = p;
    return CUDA_SUCCESS;
}

#define LOCK() pthread_mutex_lock(&G)
#define RET(x)                                                                                                         \
    do {                                                                                                               \
        CUresult r__ = (x);                                                                                            \
        pthread_mutex_unlock(&G);                                                                                      \
        return r__;                                                                                                    \
    } while (0)

EXPORT CUresult CUDAAPI cuMemAlloc(CUdeviceptr *p, size_t n) {
    NEED_CTX();
    NEED(p && n);
    LOCK();
    RET(dev_alloc(p, n));
}
EXPORT CUresult CUDAAPI cuMemAllocPitch(CUdeviceptr *p, size_t *pitch, size_t w, size_t h, unsigned e) {
    NEED_CTX();
    NEED(p && pitch && w && h && (e == 4 || e == 8 || e == 16));
    *pitch = (w + 511) & ~(size_t)511;
    LOCK();
    RET(dev_alloc(p, *pitch * h));
}
EXPORT CUresult CUDAAPI cuMemFree(CUdeviceptr p) {
    NEED_CTX();
    if (!p)
        return CUDA_SUCCESS;
    LOCK();
    RET(dev_free(p));
}
EXPORT CUresult CUDAAPI cuMemAllocAsync(CUdeviceptr *p, size_t n, CUstream s) {
    NEED_CTX();
    NEED(p && n);
    LOCK();
    if (!find_stream(s))
        RET(CUDA_ERROR_INVALID_HANDLE);
    RET(dev_alloc(p, n));
}
EXPORT CUresult CUDAAPI cuMemFreeAsync(CUdeviceptr p, CUstream s) {
    NEED_CTX();
    LOCK();
    if (!find_stream(s))
        RET(CUDA_ERROR_INVALID_HANDLE);
    RET(dev_free(p));
}
EXPORT CUresult CUDAAPI cuMemGetInfo(size_t *f, size_t *t) {
    NEED_CTX();
    LOCK();
    if (f)
        *f = mem_total - mem_used;
    if (t)
        *t = mem_total;
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuMemGetAddressRange(CUdeviceptr *b, size_t *n, CUdeviceptr p) {
    NEED_CTX();
    LOCK();
    for (alloc *a = allocs; a; a = a->next)
        if (a->live && p >= a->va && p < a->va + a->size) {
            if (b)
                *b = a->va;
            if (n)
                *n = a->size;
            RET(CUDA_SUCCESS);
        }
    RET(CUDA_ERROR_NOT_FOUND);
}
EXPORT CUresult CUDAAPI cuMemHostAlloc(void **pp, size_t n, unsigned flags) {
    NEED_CTX();
    NEED(pp && n && !(flags & ~7u));
    LOCK();
    RET(host_alloc(pp, n, flags));
}
EXPORT CUresult CUDAAPI cuMemAllocHost(void **pp, size_t n) {
    NEED_CTX();
    NEED(pp && n);
    LOCK();
    RET(host_alloc(pp, n, 0));
}
EXPORT CUresult CUDAAPI cuMemFreeHost(void *p) {
    NEED_CTX();
    LOCK();
    for (pin *a = pins; a; a = a->next)
        if (a->live && !a->registered && a->p == p) {
            a->live = 0;
            st_pin_free++;
            count_early_free(a->p, a->size);
            all_tails(&a->deps, &a->ndeps);
            reclaim();
            RET(CUDA_SUCCESS);
        }
    RET(CUDA_ERROR_INVALID_VALUE);
}
EXPORT CUresult CUDAAPI cuMemHostRegister(void *p, size_t n, unsigned flags) {
    NEED_CTX();
    NEED(p && n);
    LOCK();
    for (pin *a = pins; a; a = a->next)
        if (a->live && (char *)p < a->p + a->size && a->p < (char *)p + n)
            RET(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    pin *a = calloc(1, sizeof *a);
    a->p = p;
    a->size = n;
    a->flags = flags;
    a->registered = a->live = 1;
    a->ctx = cur();
    a->next = pins;
    pins = a;
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuMemHostUnregister(void *p) {
    NEED_CTX();
    LOCK();
    for (pin *a = pins; a; a = a->next)
        if (a->live && a->registered && a->p == p) {
            a->live = 0;
            reclaim();
            RET(CUDA_SUCCESS);
        }
    RET(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
}
EXPORT CUresult CUDAAPI cuMemHostGetDevicePointer(CUdeviceptr *d, void *p, unsigned flags) {
    NEED_CTX();
    (void)flags;
    LOCK();
    if (!find_pin(p, 1))
        RET(CUDA_ERROR_INVALID_VALUE);
    *d = (CUdeviceptr)p;
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuMemHostGetFlags(unsigned *f, void *p) {
    NEED_CTX();
    LOCK();
    pin *a = find_pin(p, 1);
    if (!a)
        RET(CUDA_ERROR_INVALID_VALUE);
    *f = a->flags;
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuPointerGetAttribute(void *d, CUpointer_attribute k, CUdeviceptr p) {
    NEED_CTX();
    LOCK();
    int isd = is_dev_va((void *)p);
    pin *a = isd ? NULL : find_pin((void *)p, 1);
    if (!isd && !a)
        RET(CUDA_ERROR_INVALID_VALUE);
    switch (k) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
        *(CUcontext *)d = cur();
        RET(CUDA_SUCCESS);
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *(unsigned *)d = isd ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
        RET(CUDA_SUCCESS);
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        *(CUdeviceptr *)d = p;
        RET(CUDA_SUCCESS);
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
        if (isd)
            RET(CUDA_ERROR_INVALID_VALUE);
        *(void **)d = (void *)p;
        RET(CUDA_SUCCESS);
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
        *(int *)d = 0;
        RET(CUDA_SUCCESS);
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        *(int *)d = 0;
        RET(CUDA_SUCCESS);
    default:
        RET(CUDA_ERROR_NOT_SUPPORTED);
    }
}

/* ----------------------------------------------------------------- copies */
static CUresult copy(void *dst, const void *src, size_t n, enum dir k, int async, CUstream h) {
    /* G held */
    if (n == 0)
        return CUDA_SUCCESS;
    struct CUstream_st *s = find_stream(async ? h : NULL);
    if (!s)
        return CUDA_ERROR_INVALID_HANDLE;
    char *d = k == H2D || k == D2D ? dev((CUdeviceptr)dst, n) : dst;
    const char *c = k == D2H || k == D2D ? dev((CUdeviceptr)src, n) : src;
    if (!d || !c)
        return CUDA_ERROR_INVALID_VALUE;
    if (k == H2D && is_dev_va(src))
        return CUDA_ERROR_INVALID_VALUE; /* swapped args */
    if (k == D2H && is_dev_va(dst))
        return CUDA_ERROR_INVALID_VALUE;
    CUresult asked = k == D2D ? CUDA_SUCCESS : fault(k == H2D ? AT_H2D : AT_D2H);
    if (!async && !asked)
        asked = forbidden_here();
    if (asked)
        return asked;
    if (async)
        st_async++;
    else
        st_sync++;
    const void *hostside = k == H2D ? src : k == D2H ? dst : NULL;
    int pageable = hostside && !find_pin(hostside, n);
    if (async && pageable)
        st_async_pageable++;
    if (s->capture && pageable) /* a GPU's driver takes it, but what this project does with it is a mistake */
        return broken(s);
    op *o = op_new(OP_COPY);
    o->dst = d;
    o->src = c;
    o->n = n;
    o->named_dst = dst;
    o->named_src = src;
    o->dir = k;
    if (k == D2D) {
        enqueue(s, o);
        return CUDA_SUCCESS;
    } /* async also for cuMemcpyDtoD */
    if (async && k == H2D && pageable) { /* staged: source may be reused */
        void *stage = malloc(n);
        memcpy(stage, c, n);
        o->src = stage;
        o->free_src = 1;
        enqueue(s, o);
        return CUDA_SUCCESS;
    }
    if (async && !pageable) {
        if (poison && k == D2H && !s->capture)
            memset(d, 0xCF, n);
        enqueue(s, o);
        return CUDA_SUCCESS;
    }
    host_wait(enqueue(s, o)); /* synchronous forms */
    return s->ctx->error;
}
EXPORT CUresult CUDAAPI cuMemcpyHtoD(CUdeviceptr d, const void *s, size_t n) {
    NEED_CTX();
    NEED(s || !n);
    LOCK();
    RET(copy((void *)d, s, n, H2D, 0, NULL));
}
EXPORT CUresult CUDAAPI cuMemcpyDtoH(void *d, CUdeviceptr s, size_t n) {
    NEED_CTX();
    NEED(d || !n);
    LOCK();
    RET(copy(d, (void *)s, n, D2H, 0, NULL));
}
EXPORT CUresult CUDAAPI cuMemcpyDtoD(CUdeviceptr d, CUdeviceptr s, size_t n) {
    NEED_CTX();
    LOCK();
    RET(copy((void *)d, (void *)s, n, D2D, 0, NULL));
}
EXPORT CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr d, const void *s, size_t n, CUstream h) {
    NEED_CTX();
    NEED(s || !n);
    LOCK();
    RET(copy((void *)d, s, n, H2D, 1, h));
}
EXPORT CUresult CUDAAPI cuMemcpyDtoHAsync(void *d, CUdeviceptr s, size_t n, CUstream h) {
    NEED_CTX();
    NEED(d || !n);
    LOCK();
    RET(copy(d, (void *)s, n, D2H, 1, h));
}
EXPORT CUresult CUDAAPI cuMemcpyDtoDAsync(CUdeviceptr d, CUdeviceptr s, size_t n, CUstream h) {
    NEED_CTX();
    LOCK();
    RET(copy((void *)d, (void *)s, n, D2D, 1, h));
}
static enum dir uva_dir(CUdeviceptr d, CUdeviceptr s) {
    return is_dev_va((void *)s) ? (is_dev_va((void *)d) ? D2D : D2H) : H2D;
}
EXPORT CUresult CUDAAPI cuMemcpy(CUdeviceptr d, CUdeviceptr s, size_t n) {
    NEED_CTX();
    LOCK();
    RET(copy((void *)d, (void *)s, n, uva_dir(d, s), 0, NULL));
}
EXPORT CUresult CUDAAPI cuMemcpyAsync(CUdeviceptr d, CUdeviceptr s, size_t n, CUstream h) {
    NEED_CTX();
    LOCK();
    RET(copy((void *)d, (void *)s, n, uva_dir(d, s), 1, h));
}

static CUresult copy2d(const CUDA_MEMCPY2D *p, int async, CUstream h) {
    struct CUstream_st *s = find_stream(h);
    if (!s)
        return CUDA_ERROR_INVALID_HANDLE;
    if (!p->WidthInBytes || !p->Height)
        return CUDA_SUCCESS;
    size_t sp_ = p->srcPitch ? p->srcPitch : p->WidthInBytes, dp_ = p->dstPitch ? p->dstPitch : p->WidthInBytes;
    size_t so = p->srcY * sp_ + p->srcXInBytes, doff = p->dstY * dp_ + p->dstXInBytes;
    size_t sn = sp_ * (p->Height - 1) + p->WidthInBytes, dn = dp_ * (p->Height - 1) + p->WidthInBytes;
    const char *c;
    char *d;
    int pageable = 0;
    if (p->srcMemoryType == CU_MEMORYTYPE_HOST) {
        c = (const char *)p->srcHost + so;
        pageable |= !find_pin(c, sn);
    } else if (p->srcMemoryType == CU_MEMORYTYPE_DEVICE)
        c = dev(p->srcDevice + so, sn);
    else
        return CUDA_ERROR_NOT_SUPPORTED;
    if (p->dstMemoryType == CU_MEMORYTYPE_HOST) {
        d = (char *)p->dstHost + doff;
        pageable |= !find_pin(d, dn);
    } else if (p->dstMemoryType == CU_MEMORYTYPE_DEVICE)
        d = dev(p->dstDevice + doff, dn);
    else
        return CUDA_ERROR_NOT_SUPPORTED;
    if (!c || !d)
        return CUDA_ERROR_INVALID_VALUE;
    if (s->capture)
        return broken(s); /* not emulated */
    if (async) {
        st_async++;
        st_async_pageable += pageable;
    } else
        st_sync++;
    op *o = op_new(OP_COPY2D);
    o->dst = d;
    o->src = c;
    o->dpitch = dp_;
    o->spitch = sp_;
    o->w = p->WidthInBytes;
    o->h = p->Height;
    ticket *t = enqueue(s, o);
    if (!async || pageable)
        host_wait(t);
    return s->ctx->error;
}
EXPORT CUresult CUDAAPI cuMemcpy2D(const CUDA_MEMCPY2D *p) {
    NEED_CTX();
    NEED(p);
    LOCK();
    RET(copy2d(p, 0, NULL));
}
EXPORT CUresult CUDAAPI cuMemcpy2DUnaligned(const CUDA_MEMCPY2D *p) {
    NEED_CTX();
    NEED(p);
    LOCK();
    RET(copy2d(p, 0, NULL));
}
EXPORT CUresult CUDAAPI cuMemcpy2DAsync(const CUDA_MEMCPY2D *p, CUstream h) {
    NEED_CTX();
    NEED(p);
    LOCK();
    RET(copy2d(p, 1, h));
}

static CUresult fill(CUdeviceptr p, unsigned v, size_t n, size_t esz, enum opkind k, CUstream h) {
    if (!n)
        return CUDA_SUCCESS;
    struct CUstream_st *s = find_stream(h);
    if (!s)
        return CUDA_ERROR_INVALID_HANDLE;
    char *d = dev(p, n * esz);
    if (!d || p % esz)
        return CUDA_ERROR_INVALID_VALUE;
    op *o = op_new(k);
    o->dst = d;
    o->named_dst = (void *)p;
    o->n = n;
    o->val = v;
    enqueue(s, o);
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuMemsetD8(CUdeviceptr p, unsigned char v, size_t n) {
    NEED_CTX();
    LOCK();
    RET(fill(p, v, n, 1, OP_SET8, NULL));
}
EXPORT CUresult CUDAAPI cuMemsetD16(CUdeviceptr p, unsigned short v, size_t n) {
    NEED_CTX();
    LOCK();
    RET(fill(p, v, n, 2, OP_SET16, NULL));
}
EXPORT CUresult CUDAAPI cuMemsetD32(CUdeviceptr p, unsigned v, size_t n) {
    NEED_CTX();
    LOCK();
    RET(fill(p, v, n, 4, OP_SET32, NULL));
}
EXPORT CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr p, unsigned char v, size_t n, CUstream h) {
    NEED_CTX();
    LOCK();
    RET(fill(p, v, n, 1, OP_SET8, h));
}
EXPORT CUresult CUDAAPI cuMemsetD16Async(CUdeviceptr p, unsigned short v, size_t n, CUstream h) {
    NEED_CTX();
    LOCK();
    RET(fill(p, v, n, 2, OP_SET16, h));
}
EXPORT CUresult CUDAAPI cuMemsetD32Async(CUdeviceptr p, unsigned v, size_t n, CUstream h) {
    NEED_CTX();
    LOCK();
    RET(fill(p, v, n, 4, OP_SET32, h));
}

/* ------------------------------------------------------- streams & events */
EXPORT CUresult CUDAAPI cuStreamCreate(CUstream *s, unsigned flags) {
    NEED_CTX();
    NEED(s && !(flags & ~1u));
    LOCK();
    *s = stream_new(cur(), flags, 0);
    st_streams++;
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuStreamCreateWithPriority(CUstream *s, unsigned flags, int prio) {
    NEED_CTX();
    NEED(s && !(flags & ~1u));
    LOCK();
    *s = stream_new(cur(), flags, prio);
    st_streams++;
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuStreamDestroy(CUstream h) {
    NEED_CTX();
    LOCK();
    struct CUstream_st *s = h ? find_stream(h) : NULL;
    if (!s || (s->flags & F_LEGACY))
        RET(CUDA_ERROR_INVALID_HANDLE);
    s->capture = NULL;
    release(enqueue(s, op_new(OP_QUIT))); /* queued work still completes */
    s->magic = 0;
    st_streams--;
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuStreamSynchronize(CUstream h) {
    NEED_CTX();
    LOCK();
    struct CUstream_st *s = find_stream(h);
    if (!s)
        RET(CUDA_ERROR_INVALID_HANDLE);
    if (s->capture)
        RET(broken(s));
    wait_stream(s);
    CUresult asked = fault(AT_SYNC);
    RET(asked ? asked : cur()->error);
}
EXPORT CUresult CUDAAPI cuStreamQuery(CUstream h) {
    NEED_CTX();
    LOCK();
    struct CUstream_st *s = find_stream(h);
    if (!s)
        RET(CUDA_ERROR_INVALID_HANDLE);
    if (s->capture)
        RET(broken(s));
    release(s->last);
    RET(s->last && !s->last->done ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuStreamGetFlags(CUstream h, unsigned *f) {
    NEED_CTX();
    LOCK();
    struct CUstream_st *s = find_stream(h);
    if (!s)
        RET(CUDA_ERROR_INVALID_HANDLE);
    *f = s->flags & 1u;
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuStreamGetPriority(CUstream h, int *p) {
    NEED_CTX();
    LOCK();
    struct CUstream_st *s = find_stream(h);
    if (!s)
        RET(CUDA_ERROR_INVALID_HANDLE);
    *p = s->prio;
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuStreamGetCtx(CUstream h, CUcontext *c) {
    NEED_CTX();
    LOCK();
    struct CUstream_st *s = find_stream(h);
    if (!s)
        RET(CUDA_ERROR_INVALID_HANDLE);
    *c = s->ctx;
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuStreamWaitEvent(CUstream h, CUevent e, unsigned f) {
    NEED_CTX();
    (void)f;
    LOCK();
    struct CUstream_st *s = find_stream(h);
    if (!s || !e || e->magic != MAGIC_EVENT)
        RET(CUDA_ERROR_INVALID_HANDLE);
    if (e->captured || s->capture) /* graphs of several streams are not emulated */
        RET(CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    op *o = op_new(OP_MARK);
    add_dep(o, e->tk);
    enqueue(s, o);
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuLaunchHostFunc(CUstream h, CUhostFn fn, void *ud) {
    NEED_CTX();
    NEED(fn);
    LOCK();
    struct CUstream_st *s = find_stream(h);
    if (!s)
        RET(CUDA_ERROR_INVALID_HANDLE);
    CUresult asked = fault(AT_LAUNCH);
    if (asked)
        RET(asked);
    op *o = op_new(OP_HOSTFN);
    o->fn = fn;
    o->ud = ud;
    enqueue(s, o);
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuStreamAddCallback(CUstream h, CUstreamCallback fn, void *ud, unsigned f) {
    NEED_CTX();
    (void)f;
    NEED(fn);
    LOCK();
    struct CUstream_st *s = find_stream(h);
    if (!s)
        RET(CUDA_ERROR_INVALID_HANDLE);
    op *o = op_new(OP_CALLBACK);
    o->cb = fn;
    o->ud = ud;
    o->cbstream = h;
    enqueue(s, o);
    RET(CUDA_SUCCESS);
}

EXPORT CUresult CUDAAPI cuEventCreate(CUevent *e, unsigned flags) {
    NEED_CTX();
    NEED(e);
    LOCK();
    struct CUevent_st *x = calloc(1, sizeof *x);
    x->magic = MAGIC_EVENT;
    x->flags = flags;
    x->ctx = cur();
    st_events++;
    *e = x;
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuEventDestroy(CUevent e) {
    NEED_CTX();
    LOCK();
    if (!e || e->magic != MAGIC_EVENT)
        RET(CUDA_ERROR_INVALID_HANDLE);
    e->magic = 0; /* the struct is kept: a use after this is caught */
    tk_unref(e->tk);
    e->tk = NULL;
    st_events--;
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuEventRecord(CUevent e, CUstream h) {
    NEED_CTX();
    LOCK();
    struct CUstream_st *s = find_stream(h);
    if (!s || !e || e->magic != MAGIC_EVENT)
        RET(CUDA_ERROR_INVALID_HANDLE);
    ticket *t = enqueue(s, op_new(OP_MARK));
    tk_unref(e->tk);
    e->tk = tk_ref(t);
    e->captured = s->capture != NULL;
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuEventRecordWithFlags(CUevent e, CUstream h, unsigned f) {
    (void)f;
    return cuEventRecord(e, h);
}
EXPORT CUresult CUDAAPI cuEventQuery(CUevent e) {
    NEED_CTX();
    LOCK();
    if (!e || e->magic != MAGIC_EVENT)
        RET(CUDA_ERROR_INVALID_HANDLE);
    if (e->captured)
        RET(CUDA_ERROR_CAPTURED_EVENT);
    release(e->tk);
    RET(e->tk && !e->tk->done ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuEventSynchronize(CUevent e) {
    NEED_CTX();
    LOCK();
    if (!e || e->magic != MAGIC_EVENT)
        RET(CUDA_ERROR_INVALID_HANDLE);
    if (e->captured)
        RET(CUDA_ERROR_CAPTURED_EVENT);
    host_wait(e->tk);
    CUresult asked = fault(AT_SYNC);
    RET(asked ? asked : cur()->error);
}
EXPORT CUresult CUDAAPI cuEventElapsedTime(float *ms, CUevent a, CUevent b) {
    NEED_CTX();
    NEED(ms);
    LOCK();
    if (!a || !b || a->magic != MAGIC_EVENT || b->magic != MAGIC_EVENT ||
        ((a->flags | b->flags) & CU_EVENT_DISABLE_TIMING) || !a->tk || !b->tk)
        RET(CUDA_ERROR_INVALID_HANDLE);
    if (!a->tk->done || !b->tk->done)
        RET(CUDA_ERROR_NOT_READY);
    *ms = (float)((b->tk->t_done - a->tk->t_done) * 1e3);
    RET(CUDA_SUCCESS);
}

/* ----------------------------------------------------------------- graphs */
static op *nodes_copy(const op *from) {
    op *head = NULL, **place = &head;
    for (; from; from = from->next) {
        *place = op_new(from->kind);
        **place = *from;
        (*place)->next = NULL;
        place = &(*place)->next;
    }
    return head;
}
static void nodes_free(op *o) {
    while (o) {
        op *next = o->next;
        free(o);
        o = next;
    }
}
EXPORT CUresult CUDAAPI cuStreamBeginCapture(CUstream h, CUstreamCaptureMode mode) {
    NEED_CTX();
    LOCK();
    struct CUstream_st *s = find_stream(h);
    if (!s)
        RET(CUDA_ERROR_INVALID_HANDLE);
    if (s->capture || (s->flags & F_LEGACY))
        RET(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CUresult asked = fault(AT_CAPTURE);
    if (asked)
        RET(asked);
    s->capture = calloc(1, sizeof *s->capture);
    s->capture->magic = MAGIC_GRAPH;
    s->capture_mode = mode;
    s->capture_thread = pthread_self();
    st_captures++;
    st_graphs++;
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuStreamIsCapturing(CUstream h, CUstreamCaptureStatus *status) {
    NEED_CTX();
    NEED(status);
    LOCK();
    struct CUstream_st *s = find_stream(h);
    if (!s)
        RET(CUDA_ERROR_INVALID_HANDLE);
    *status = !s->capture           ? CU_STREAM_CAPTURE_STATUS_NONE
              : s->capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                    : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    RET(CUDA_SUCCESS);
}
static void graph_free(struct CUgraph_st *g) { /* the struct is kept: a use after this is caught */
    nodes_free(g->head);
    g->head = g->tail = NULL;
    g->magic = 0;
    st_graphs--;
}
EXPORT CUresult CUDAAPI cuStreamEndCapture(CUstream h, CUgraph *graph) {
    NEED_CTX();
    NEED(graph);
    LOCK();
    struct CUstream_st *s = find_stream(h);
    if (!s || !s->capture)
        RET(CUDA_ERROR_ILLEGAL_STATE);
    if (s->capture_mode != CU_STREAM_CAPTURE_MODE_RELAXED && !pthread_equal(s->capture_thread, pthread_self()))
        RET(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    *graph = s->capture;
    s->capture = NULL;
    if ((*graph)->invalid) {
        graph_free(*graph);
        *graph = NULL;
        RET(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    }
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuGraphDestroy(CUgraph g) {
    NEED_CTX();
    LOCK();
    if (!g || g->magic != MAGIC_GRAPH)
        RET(CUDA_ERROR_INVALID_VALUE);
    graph_free(g);
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph g, unsigned long long flags) {
    NEED_CTX();
    NEED(exec && !flags);
    LOCK();
    if (!g || g->magic != MAGIC_GRAPH)
        RET(CUDA_ERROR_INVALID_VALUE);
    CUresult asked = fault(AT_INSTANTIATE);
    if (asked)
        RET(asked);
    *exec = calloc(1, sizeof **exec);
    (*exec)->magic = MAGIC_EXEC;
    (*exec)->head = nodes_copy(g->head);
    st_graphs++;
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec exec) {
    NEED_CTX();
    LOCK();
    if (!exec || exec->magic != MAGIC_EXEC)
        RET(CUDA_ERROR_INVALID_VALUE);
    if (exec->last && !exec->last->done)
        st_early_free++;
    tk_unref(exec->last);
    exec->last = NULL;
    nodes_free(exec->head);
    exec->head = NULL;
    exec->magic = 0;
    st_graphs--;
    RET(CUDA_SUCCESS);
}
/* The memory that a node names, as it is now: a GPU faults where it is gone. */
static int still_there(op *o) {
    if (o->kind == OP_COPY) {
        o->dst = o->dir == D2H ? (find_pin(o->named_dst, o->n) ? (void *)o->named_dst : NULL)
                               : dev((CUdeviceptr)o->named_dst, o->n);
        o->src = o->dir == H2D ? (find_pin(o->named_src, o->n) ? o->named_src : NULL)
                               : dev((CUdeviceptr)o->named_src, o->n);
        return o->dst && o->src;
    }
    if (o->kind == OP_SET8 || o->kind == OP_SET16 || o->kind == OP_SET32) {
        size_t size = o->n * (o->kind == OP_SET8 ? 1 : o->kind == OP_SET16 ? 2 : 4);
        o->dst = dev((CUdeviceptr)o->named_dst, size);
        return o->dst != NULL;
    }
    return 1;
}
EXPORT CUresult CUDAAPI cuGraphLaunch(CUgraphExec exec, CUstream h) {
    NEED_CTX();
    LOCK();
    struct CUstream_st *s = find_stream(h);
    if (!s || !exec || exec->magic != MAGIC_EXEC)
        RET(CUDA_ERROR_INVALID_HANDLE);
    if (s->capture)
        RET(broken(s)); /* child graphs are not emulated */
    CUresult asked = fault(AT_GRAPH);
    if (asked)
        RET(asked);
    st_graph_launches++;
    op *head = op_new(OP_MARK);
    add_dep(head, exec->last); /* a graph does not run beside itself */
    head->next = nodes_copy(exec->head);
    ticket *last = NULL;
    for (op *o = head, *next; o; o = next) {
        next = o->next;
        o->next = NULL;
        if (!still_there(o))
            o->kind = OP_FAULT;
        else if (poison && o->kind == OP_COPY && o->dir == D2H)
            memset(o->dst, 0xCF, o->n);
        last = enqueue(s, o);
    }
    tk_unref(exec->last);
    exec->last = tk_ref(last);
    RET(CUDA_SUCCESS);
}

/* ------------------------------------------------------- init and devices */
EXPORT CUresult CUDAAPI cuInit(unsigned flags) {
    if (flags)
        return CUDA_ERROR_INVALID_VALUE;
    if (envd("CUEMU_DEVICES", 1) < 1)
        return CUDA_ERROR_NO_DEVICE;
    LOCK();
    if (!inited) {
        mem_total = (size_t)envd("CUEMU_MEM_MB", 8192) << 20;
        latency_s = envd("CUEMU_LATENCY_US", 2000) * 1e-6;
        bytes_per_s = envd("CUEMU_GBPS", 12) * 1e9;
        poison = (int)envd("CUEMU_POISON", 1);
        lazy = (int)envd("CUEMU_LAZY", 0);
        inited = 1;
    }
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuDriverGetVersion(int *v) {
    NEED(v);
    *v = (int)envd("CUEMU_DRIVER_VERSION", CUDA_VERSION);
    return CUDA_SUCCESS;
}
#define NEED_DEV(d)                                                                                                    \
    do {                                                                                                               \
        NEED_INIT();                                                                                                   \
        if ((d) != 0)                                                                                                  \
            return CUDA_ERROR_INVALID_DEVICE;                                                                          \
    } while (0)
EXPORT CUresult CUDAAPI cuDeviceGetCount(int *n) {
    NEED_INIT();
    NEED(n);
    *n = 1;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuDeviceGet(CUdevice *d, int i) {
    NEED_INIT();
    NEED(d);
    if (i)
        return CUDA_ERROR_INVALID_DEVICE;
    *d = 0;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuDeviceGetName(char *s, int n, CUdevice d) {
    NEED_DEV(d);
    NEED(s && n > 0);
    const char *v = getenv("CUEMU_NAME");
    snprintf(s, n, "%s", v && *v ? v : "cuemu (emulated, no GPU)");
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuDeviceTotalMem(size_t *n, CUdevice d) {
    NEED_DEV(d);
    NEED(n);
    *n = mem_total;
    return CUDA_SUCCESS;
}
static int cc(void) {
    return (int)envd("CUEMU_CC", 86);
}
EXPORT CUresult CUDAAPI cuDeviceComputeCapability(int *a, int *b, CUdevice d) {
    NEED_DEV(d);
    *a = cc() / 10;
    *b = cc() % 10;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuDeviceGetUuid(CUuuid *u, CUdevice d) {
    NEED_DEV(d);
    NEED(u);
    memcpy(u->bytes, "cuemu-device-000", 16);
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuDeviceGetPCIBusId(char *s, int n, CUdevice d) {
    NEED_DEV(d);
    snprintf(s, n, "0000:01:00.0");
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuDeviceGetByPCIBusId(CUdevice *d, const char *s) {
    NEED_INIT();
    if (strcmp(s, "0000:01:00.0"))
        return CUDA_ERROR_INVALID_VALUE;
    *d = 0;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuDeviceCanAccessPeer(int *r, CUdevice a, CUdevice b) {
    NEED_DEV(a);
    NEED_DEV(b);
    *r = 0;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuDeviceGetAttribute(int *v, CUdevice_attribute k, CUdevice d) {
    NEED_DEV(d);
    NEED(v);
    switch (k) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
        *v = cc() / 10;
        break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
        *v = cc() % 10;
        break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
        *v = 28;
        break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
        *v = 32;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y:
        *v = 1024;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z:
        *v = 64;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X:
        *v = 2147483647;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z:
        *v = 65535;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK:
        *v = 49152;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
        *v = 101376;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
        *v = 102400;
        break;
    case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY:
        *v = 65536;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR:
        *v = 65536;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
        *v = 1536;
        break;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
        *v = 1780000;
        break;
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
        *v = 7501000;
        break;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
        *v = 192;
        break;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
        *v = 2359296;
        break;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
        *v = 2;
        break;
    case CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT:
        *v = 512;
        break;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
        *v = 1;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_PITCH:
        *v = 2147483647;
        break;
    case CU_DEVICE_ATTRIBUTE_GPU_OVERLAP:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
        *v = 1;
        break;
    default:
        if ((int)k <= 0 || k >= CU_DEVICE_ATTRIBUTE_MAX)
            return CUDA_ERROR_INVALID_VALUE;
        *v = 0;
    }
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuDeviceGetProperties(CUdevprop *p, CUdevice d) {
    NEED_DEV(d);
    memset(p, 0, sizeof *p);
    p->maxThreadsPerBlock = 1024;
    p->SIMDWidth = 32;
    p->clockRate = 1780000;
    return CUDA_SUCCESS;
}

/* --------------------------------------------------------------- contexts */
static CUresult push(struct CUctx_st *c) {
    if (sp >= STACK)
        return CUDA_ERROR_OUT_OF_MEMORY;
    stack[sp++] = c;
    return CUDA_SUCCESS;
}
static struct CUctx_st *ctx_new(unsigned flags, int prim) {
    struct CUctx_st *c = calloc(1, sizeof *c);
    c->magic = MAGIC_CTX;
    c->flags = flags;
    c->refs = 1;
    c->primary = prim;
    if (nctx < 256)
        ctxs[nctx++] = c;
    return c;
}
static int ctx_ok(CUcontext c) {
    for (int i = 0; i < nctx; i++)
        if (ctxs[i] == c)
            return c->magic == MAGIC_CTX;
    return 0;
}
static void ctx_kill(struct CUctx_st *c) { /* G held */
    if (!c->error) /* drops queued work: the caller may hold Python's lock, which a host function would wait for */
        c->error = CUDA_ERROR_CONTEXT_IS_DESTROYED;
    wait_ctx(c);
    for (alloc *a = allocs; a; a = a->next)
        if (a->live && a->ctx == c) {
            a->live = 0; /* not counted as freed: whoever left it to the context leaked it */
            mem_used -= a->mapped;
        }
    for (pin *a = pins; a; a = a->next)
        if (a->live && a->ctx == c)
            a->live = 0;
    for (struct CUstream_st *s = streams; s; s = s->next)
        if (s->ctx == c && s->magic) {
            release(enqueue(s, op_new(OP_QUIT)));
            s->magic = 0;
        }
    wait_ctx(c);
    c->magic = 0;
    reclaim();
}
static CUresult ctx_create(CUcontext *p, unsigned flags, CUdevice d) {
    NEED_DEV(d);
    NEED(p);
    LOCK();
    *p = ctx_new(flags, 0);
    RET(push(*p));
}
EXPORT CUresult CUDAAPI cuCtxCreate_v2(CUcontext *p, unsigned flags, CUdevice d) {
    return ctx_create(p, flags, d);
}
#if CUDA_VERSION >= 13000
EXPORT CUresult CUDAAPI cuCtxCreate_v4(CUcontext *p, CUctxCreateParams *x, unsigned flags, CUdevice d) {
    (void)x;
    return ctx_create(p, flags, d);
}
EXPORT CUresult CUDAAPI cuEventElapsedTime(float *ms, CUevent a, CUevent b);
#undef cuEventElapsedTime
EXPORT CUresult CUDAAPI cuEventElapsedTime(float *ms, CUevent a, CUevent b) {
    return cuEventElapsedTime_v2(ms, a, b);
}
#endif
EXPORT CUresult CUDAAPI cuCtxDestroy(CUcontext c) {
    NEED_INIT();
    LOCK();
    if (!ctx_ok(c) || c->primary)
        RET(CUDA_ERROR_INVALID_CONTEXT);
    ctx_kill(c);
    if (cur() == c)
        sp--;
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuCtxAttach(CUcontext *p, unsigned f) {
    NEED_CTX();
    (void)f;
    LOCK();
    *p = cur();
    (*p)->refs++;
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuCtxDetach(CUcontext c) {
    NEED_INIT();
    LOCK();
    if (!ctx_ok(c))
        RET(CUDA_ERROR_INVALID_CONTEXT);
    if (--c->refs == 0) {
        ctx_kill(c);
        if (cur() == c)
            sp--;
    }
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuCtxPushCurrent(CUcontext c) {
    NEED_INIT();
    LOCK();
    if (!ctx_ok(c))
        RET(CUDA_ERROR_INVALID_CONTEXT);
    CUresult asked = fault(AT_PUSH);
    if (asked)
        RET(asked);
    RET(push(c));
}
EXPORT CUresult CUDAAPI cuCtxPopCurrent(CUcontext *p) {
    NEED_INIT();
    if (!cur())
        return CUDA_ERROR_INVALID_CONTEXT;
    if (p)
        *p = cur();
    sp--;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuCtxSetCurrent(CUcontext c) {
    NEED_INIT();
    LOCK();
    if (c && !ctx_ok(c))
        RET(CUDA_ERROR_INVALID_CONTEXT);
    if (!c) {
        if (sp)
            sp--;
    } else if (sp)
        stack[sp - 1] = c;
    else
        push(c);
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuCtxGetCurrent(CUcontext *p) {
    NEED_INIT();
    NEED(p);
    *p = cur();
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuCtxGetDevice(CUdevice *d) {
    NEED_CTX();
    *d = 0;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuCtxGetFlags(unsigned *f) {
    NEED_CTX();
    *f = cur()->flags;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuCtxSynchronize(void) {
    NEED_CTX();
    LOCK();
    CUresult asked = forbidden_here();
    if (asked)
        RET(asked);
    wait_ctx(cur());
    RET(cur()->error);
}
EXPORT CUresult CUDAAPI cuCtxGetApiVersion(CUcontext c, unsigned *v) {
    (void)c;
    NEED(v);
    *v = 3020;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuCtxGetStreamPriorityRange(int *lo, int *hi) {
    NEED_CTX();
    if (lo)
        *lo = 0;
    if (hi)
        *hi = -5;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuCtxSetLimit(CUlimit l, size_t v) {
    NEED_CTX();
    (void)l;
    (void)v;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuCtxGetLimit(size_t *v, CUlimit l) {
    NEED_CTX();
    (void)l;
    *v = 1024;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuCtxGetCacheConfig(CUfunc_cache *c) {
    NEED_CTX();
    *c = CU_FUNC_CACHE_PREFER_NONE;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuCtxSetCacheConfig(CUfunc_cache c) {
    NEED_CTX();
    (void)c;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext *p, CUdevice d) {
    NEED_DEV(d);
    NEED(p);
    LOCK();
    if (!primary)
        primary = ctx_new(primary_flags, 1);
    else if (primary->magic != MAGIC_CTX) {
        primary->magic = MAGIC_CTX;
        primary->error = CUDA_SUCCESS;
        primary->refs = 1;
    } else
        primary->refs++;
    *p = primary;
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuDevicePrimaryCtxRelease(CUdevice d) {
    NEED_DEV(d);
    LOCK();
    if (!primary || primary->magic != MAGIC_CTX)
        RET(CUDA_ERROR_INVALID_CONTEXT);
    if (--primary->refs == 0)
        ctx_kill(primary);
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuDevicePrimaryCtxReset(CUdevice d) {
    NEED_DEV(d);
    LOCK();
    if (primary && primary->magic == MAGIC_CTX)
        ctx_kill(primary);
    RET(CUDA_SUCCESS);
}
EXPORT CUresult CUDAAPI cuDevicePrimaryCtxSetFlags(CUdevice d, unsigned f) {
    NEED_DEV(d);
    primary_flags = f;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuDevicePrimaryCtxGetState(CUdevice d, unsigned *f, int *a) {
    NEED_DEV(d);
    if (f)
        *f = primary_flags;
    if (a)
        *a = primary && primary->magic == MAGIC_CTX;
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuProfilerStart(void) {
    NEED_CTX();
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuProfilerStop(void) {
    NEED_CTX();
    return CUDA_SUCCESS;
}

/* no kernels: refuse, but leave the caller's JIT log buffers empty */
static CUresult no_jit(unsigned n, CUjit_option *o, void **v) {
    for (unsigned i = 0; i < n; i++)
        if (o[i] == CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES || o[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES)
            v[i] = NULL;
    return CUDA_ERROR_NOT_SUPPORTED;
}
EXPORT CUresult CUDAAPI cuModuleLoadDataEx(CUmodule *m, const void *p, unsigned n, CUjit_option *o, void **v) {
    (void)m;
    (void)p;
    return no_jit(n, o, v);
}
EXPORT CUresult CUDAAPI cuLinkCreate(unsigned n, CUjit_option *o, void **v, CUlinkState *s) {
    (void)s;
    return no_jit(n, o, v);
}

/* ----------------------------------------------------------------- errors */
static const struct {
    CUresult r;
    const char *name, *text;
} errs[] = {
#define E(x, t) {x, #x, t}
    E(CUDA_SUCCESS, "no error"),
    E(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
    E(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    E(CUDA_ERROR_NOT_INITIALIZED, "initialization error"),
    E(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected"),
    E(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
    E(CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
    E(CUDA_ERROR_CONTEXT_IS_DESTROYED, "context is destroyed"),
    E(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
    E(CUDA_ERROR_NOT_FOUND, "named symbol not found"),
    E(CUDA_ERROR_NOT_READY, "device not ready"),
    E(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "part or all of the requested memory range is already mapped"),
    E(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "pointer does not correspond to a registered memory region"),
    E(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
    E(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure"),
    E(CUDA_ERROR_ECC_UNCORRECTABLE, "uncorrectable ECC error encountered"),
    E(CUDA_ERROR_LAUNCH_TIMEOUT, "the launch timed out and was terminated"),
    E(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing"),
    E(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "operation failed due to a previous error during capture"),
    E(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "dependency created on uncaptured work in another stream"),
    E(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "attempt to terminate a thread-local capture sequence from another thread"),
    E(CUDA_ERROR_CAPTURED_EVENT, "operation not permitted on an event last recorded in a capturing stream"),
    E(CUDA_ERROR_ILLEGAL_STATE, "the operation cannot be performed in the present state"),
    E(CUDA_ERROR_UNKNOWN, "unknown error"),
    E(CUDA_ERROR_NOT_SUPPORTED, "operation not supported (cuemu)"),
};
EXPORT CUresult CUDAAPI cuGetErrorString(CUresult r, const char **s) {
    for (size_t i = 0; i < sizeof errs / sizeof *errs; i++)
        if (errs[i].r == r) {
            *s = errs[i].text;
            return CUDA_SUCCESS;
        }
    *s = NULL;
    return CUDA_ERROR_INVALID_VALUE;
}
EXPORT CUresult CUDAAPI cuGetErrorName(CUresult r, const char **s) {
    for (size_t i = 0; i < sizeof errs / sizeof *errs; i++)
        if (errs[i].r == r) {
            *s = errs[i].name;
            return CUDA_SUCCESS;
        }
    *s = NULL;
    return CUDA_ERROR_INVALID_VALUE;
}

/* ------------------------------ helpers for tests (not part of the CUDA API) */
EXPORT void *cuemu_backing(CUdeviceptr p, size_t n) {
    LOCK();
    void *r = dev(p, n);
    pthread_mutex_unlock(&G);
    return r;
}
/* A counter by its name (README.md lists them); -1 for a name that there is not. */
EXPORT long cuemu_counter(const char *name) {
    LOCK();
    long executing = 0;
    for (struct CUstream_st *x = streams; x; x = x->next)
        executing += x->last && !x->last->done;
    const struct {
        const char *name;
        long value;
    } counters[] = {
        {"alloc", st_alloc},
        {"free", st_free},
        {"pin_alloc", st_pin_alloc},
        {"pin_free", st_pin_free},
        {"streams", st_streams},
        {"events", st_events},
        {"async", st_async},
        {"async_pageable", st_async_pageable},
        {"sync", st_sync},
        {"executed", st_executed},
        {"early_free", st_early_free},
        {"graphs", st_graphs},
        {"captures", st_captures},
        {"graph_launches", st_graph_launches},
        {"used", (long)mem_used},
        {"busy_streams", executing},
        {"context_refs", primary && primary->magic == MAGIC_CTX ? primary->refs : 0},
    };
    long value = -1;
    for (size_t i = 0; i < sizeof counters / sizeof *counters; i++)
        if (!strcmp(counters[i].name, name))
            value = counters[i].value;
    pthread_mutex_unlock(&G);
    return value;
}
/* After `after` more calls, the next `times` at `point` fail with `result`; 0 when there is no such point. */
EXPORT int cuemu_inject(const char *point, int result, long after, long times) {
    int known = 0;
    LOCK();
    for (int p = 0; p < N_POINTS; p++)
        if (!strcmp(points[p], point)) {
            known = 1;
            faults[p].times = times;
            faults[p].after = after;
            faults[p].result = (CUresult)result;
        }
    pthread_mutex_unlock(&G);
    return known;
}
EXPORT void cuemu_clear_faults(void) {
    LOCK();
    memset(faults, 0, sizeof faults);
    pthread_mutex_unlock(&G);
}
/* What a kernel that touches freed memory does to its context. */
EXPORT void cuemu_fail_context(int result) {
    LOCK();
    if (primary && !primary->error)
        primary->error = (CUresult)result;
    pthread_mutex_unlock(&G);
}
/* A GPU cannot do this; it lets a test clean up behind itself. */
EXPORT void cuemu_repair_context(void) {
    LOCK();
    if (primary)
        primary->error = CUDA_SUCCESS;
    pthread_mutex_unlock(&G);
}
EXPORT void cuemu_set_mem_mb(double mb) {
    LOCK();
    mem_total = (size_t)(mb * (1 << 20));
    pthread_mutex_unlock(&G);
}
EXPORT void cuemu_set_lazy(int on) {
    LOCK();
    lazy = on;
    for (struct CUstream_st *s = streams; s; s = s->next)
        pthread_cond_signal(&s->cv);
    pthread_mutex_unlock(&G);
}
EXPORT void cuemu_set_latency_us(double us) {
    LOCK();
    latency_s = us * 1e-6;
    pthread_mutex_unlock(&G);
}
