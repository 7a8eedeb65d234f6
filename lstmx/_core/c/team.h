/* Threads that work on one layer: how many there may be in the process, how they share rows, and a barrier for those that share a
 * step. */
#ifndef LSTMX_TEAM_H
#define LSTMX_TEAM_H

#include <stddef.h>
#ifdef _WIN32
#include <windows.h>
static inline double lstmx_now(void) { return GetTickCount64() * 1e-3; }
static inline void lstmx_yield(void) { SwitchToThread(); }
#else
#include <sched.h>
#include <time.h>
#include <unistd.h>
static inline double lstmx_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static inline void lstmx_yield(void) { sched_yield(); }
#endif

/* The CPUs that the calling thread may run on; 0 where that is not known. Nothing is allocated. */
static inline int lstmx_cpus(void) {
#ifdef CPU_COUNT
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    return 0;
}

/* The bytes of the second cache of a core; a megabyte where that is not known. It decides who does what, never a result. */
static inline ptrdiff_t lstmx_second_cache(void) {
#ifdef _SC_LEVEL2_CACHE_SIZE
    const long found = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (found > 0) return found;
#endif
    return 1 << 20;
}

#ifdef _OPENMP
#include <omp.h>
#define LSTMX_OPENMP 1
#else
#define LSTMX_OPENMP 0
#define omp_get_max_threads() 1
#define omp_get_num_threads() 1
#define omp_get_thread_num() 0
#define omp_in_parallel() 0
#endif

/* A barrier that spins for about 20 us and then gives the core away: whoever is waited for may need it. Where another program
 * has one of the cores, each barrier may last as long as that program's turn; a team that has spent much of its time so falls
 * apart, and one member does the rest. */
typedef struct {
    int waiting;
    unsigned round;  /* barriers behind it; may wrap */
    int cancelled;   /* set at any time */
    int stop;        /* what `cancelled` was when the last member came to the barrier: after it, all read the same */
    int apart;       /* the same way: whether the team has fallen apart */
    int waited;      /* microseconds of all members together, after they had given their cores away */
    double began;    /* when the team came together */
    double patience; /* seconds that a member waits in any case */
    int left;        /* members that have nothing more to do */
    char alone[64];  /* nothing else in this cache line */
} lstmx_team;

/* Rows that a member of a team takes through all steps, block by block, so that what it has read and written is still in its cache.
 * A member that has none left takes what nobody has begun, then asks others for some of their rows, which they hand over at the end
 * of a block: a member whose core is slow, or that wakes late, does less. */
enum { LSTMX_UNTOUCHED = -3, LSTMX_CLOSED = -2, LSTMX_OPEN = -1 };   /* states; from 0 on, the member that asks */
enum { LSTMX_REFUSED = -1, LSTMX_ASKED, LSTMX_GIVEN };   /* answers */
typedef struct {
    int state;
    int answer;                       /* to what this member asks */
    ptrdiff_t begin, end;             /* the rows that are meant for it */
    ptrdiff_t first, stop, step;      /* those that it has, and the step that they have come to */
    char alone[128 - 2 * sizeof(int) - 5 * sizeof(ptrdiff_t)];   /* nothing else in its cache lines */
} lstmx_rows;

/* Shares of rows that the members of a team take from a counter, one block of steps after the other: backward, where the weights'
 * gradients need all rows of a block. */
enum { LSTMX_SHARES = 64 };
typedef struct {
    ptrdiff_t taken;                     /* of the shares of all blocks, in order */
    char alone[64];
    int count, each;                     /* in all, and of each cohort, one after the other */
    ptrdiff_t done[LSTMX_SHARES];        /* blocks that each share has behind it */
    ptrdiff_t first[LSTMX_SHARES], stop[LSTMX_SHARES];   /* the rows of each share, counted within its cohort */
} lstmx_shares;

#if LSTMX_OPENMP
enum { LSTMX_SPINS = 1000 };   /* of about 20 ns */

static inline void lstmx_pause(int spin) {
    if (spin >= LSTMX_SPINS) lstmx_yield();
#if defined(__x86_64__) || defined(__i386__)
    else __builtin_ia32_pause();
#elif defined(__aarch64__)
    else __asm__ volatile("yield");
#endif
}

/* `members`: the threads that the region really got. */
static inline void lstmx_wait(lstmx_team *team, int members) {
    if (members == 1) {
        team->stop = __atomic_load_n(&team->cancelled, __ATOMIC_ACQUIRE);
        return;
    }
    const unsigned round = __atomic_load_n(&team->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&team->waiting, 1, __ATOMIC_ACQ_REL) == members) {
        const double waited = 1e-6 * __atomic_load_n(&team->waited, __ATOMIC_RELAXED) / (members - 1);
        if (waited > team->patience && waited > 0.3 * (lstmx_now() - team->began))
            __atomic_store_n(&team->apart, 1, __ATOMIC_RELAXED);
        __atomic_store_n(&team->waiting, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&team->stop, __atomic_load_n(&team->cancelled, __ATOMIC_ACQUIRE), __ATOMIC_RELAXED);
        __atomic_store_n(&team->round, round + 1, __ATOMIC_RELEASE);
        return;
    }
    double start = 0;
    for (int spin = 0; __atomic_load_n(&team->round, __ATOMIC_ACQUIRE) == round; spin++) {
        if (spin == LSTMX_SPINS) start = lstmx_now();
        lstmx_pause(spin);
    }
    if (start) __atomic_add_fetch(&team->waited, (int)((lstmx_now() - start) * 1e6), __ATOMIC_RELAXED);
}
/* After a barrier: whether the first member does the rest alone. */
static inline int lstmx_apart(lstmx_team *team) { return __atomic_load_n(&team->apart, __ATOMIC_RELAXED); }
static inline void lstmx_cancel(lstmx_team *team) { __atomic_store_n(&team->cancelled, 1, __ATOMIC_RELEASE); }
static inline int lstmx_cancelled(lstmx_team *team) { return __atomic_load_n(&team->cancelled, __ATOMIC_ACQUIRE); }
/* After a barrier: whether all members stop here. One that looked at `cancelled` might stop a barrier before the others. */
static inline int lstmx_stopped(lstmx_team *team) { return __atomic_load_n(&team->stop, __ATOMIC_RELAXED); }

static inline ptrdiff_t lstmx_take(lstmx_shares *shares) { return __atomic_fetch_add(&shares->taken, 1, __ATOMIC_RELAXED); }
/* Waits until a share has `blocks` behind it; whether that is so, and not the team cancelled. */
static inline int lstmx_await(const lstmx_shares *shares, int share, ptrdiff_t blocks, lstmx_team *team) {
    for (int spin = 0; __atomic_load_n(&shares->done[share], __ATOMIC_ACQUIRE) < blocks; spin++) {
        if (lstmx_cancelled(team)) return 0;
        lstmx_pause(spin);
    }
    return 1;
}
static inline void lstmx_finish(lstmx_shares *shares, int share, ptrdiff_t blocks) {
    __atomic_store_n(&shares->done[share], blocks, __ATOMIC_RELEASE);
}

/* Whether a member gets the rows that are meant for `other`, itself or one that has not come yet. Once its own state is open another
 * may ask, and nothing but the answer may change it: the rows are there before. */
static inline int lstmx_begin(lstmx_rows *own, lstmx_rows *other) {
    int state = LSTMX_UNTOUCHED;
    const int next = own == other ? LSTMX_OPEN : LSTMX_CLOSED;
    own->first = other->begin, own->stop = other->end, own->step = 0;
    if (!__atomic_compare_exchange_n(&other->state, &state, next, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) return 0;
    if (own != other) __atomic_store_n(&own->state, LSTMX_OPEN, __ATOMIC_RELAXED);
    return 1;
}
/* The member that asks for some of these rows; less than 0: nobody. */
static inline int lstmx_asker(const lstmx_rows *own) { return __atomic_load_n(&own->state, __ATOMIC_ACQUIRE); }
/* Hands the rows middle..stop to the member that asks. */
static inline void lstmx_give(lstmx_rows *own, lstmx_rows *asker, ptrdiff_t middle) {
    asker->first = middle;
    asker->stop = own->stop;
    asker->step = own->step;
    own->stop = middle;
    __atomic_store_n(&own->state, LSTMX_OPEN, __ATOMIC_RELAXED);
    __atomic_store_n(&asker->state, LSTMX_OPEN, __ATOMIC_RELAXED);
    __atomic_store_n(&asker->answer, LSTMX_GIVEN, __ATOMIC_RELEASE);
}
/* From now on nobody gets any of these rows. (It acquires so that the refusal comes after the question.) */
static inline void lstmx_close(lstmx_rows *all, int me) {
    const int asker = __atomic_exchange_n(&all[me].state, LSTMX_CLOSED, __ATOMIC_ACQUIRE);
    if (asker >= 0) __atomic_store_n(&all[asker].answer, LSTMX_REFUSED, __ATOMIC_RELAXED);
}
/* Gives a member rows of `count` that there are: its own, what nobody has begun, or some of another's, for which it waits. 0: there
 * are none to be had. */
static inline int lstmx_get(lstmx_rows *all, int count, int me) {
    lstmx_rows *own = all + me;
    for (int k = 0; k < count; k++)
        if (lstmx_begin(own, all + (me + k) % count)) return 1;
    for (int spin = 0, busy = 1; busy; lstmx_pause(spin++)) {
        busy = 0;
        for (int k = 1; k < count; k++) {
            lstmx_rows *other = all + (me + k) % count;
            int state = __atomic_load_n(&other->state, __ATOMIC_RELAXED), answer = LSTMX_ASKED;
            busy |= state != LSTMX_CLOSED;
            if (state != LSTMX_OPEN) continue;
            __atomic_store_n(&own->answer, answer, __ATOMIC_RELAXED);
            if (!__atomic_compare_exchange_n(&other->state, &state, me, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) continue;
            for (int tries = 0; answer == LSTMX_ASKED; lstmx_pause(tries++)) answer = __atomic_load_n(&own->answer, __ATOMIC_ACQUIRE);
            if (answer == LSTMX_GIVEN) return 1;
        }
    }
    return 0;
}

/* A member has nothing more to do; and how many such there are. */
static inline void lstmx_leave(lstmx_team *team) { __atomic_add_fetch(&team->left, 1, __ATOMIC_RELAXED); }
static inline int lstmx_left(lstmx_team *team) { return __atomic_load_n(&team->left, __ATOMIC_RELAXED); }

static int lstmx_active;   /* threads now inside calls of this process */

/* Joins with up to `wanted` threads where the process may have `budget`: what is left of it, at least 1. */
static inline int lstmx_claim(int wanted, int budget) {
    int active = __atomic_load_n(&lstmx_active, __ATOMIC_RELAXED), got;
    do {
        got = budget - active < wanted ? budget - active : wanted;
        if (got < 1) got = 1;
    } while (!__atomic_compare_exchange_n(&lstmx_active, &active, active + got, 1, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    return got;
}
static inline void lstmx_release(int got) { __atomic_sub_fetch(&lstmx_active, got, __ATOMIC_ACQ_REL); }
#else
static inline void lstmx_wait(lstmx_team *team, int members) { (void)team; (void)members; }
static inline int lstmx_apart(lstmx_team *team) { (void)team; return 0; }
static inline ptrdiff_t lstmx_take(lstmx_shares *shares) { return shares->taken++; }
static inline int lstmx_await(const lstmx_shares *shares, int share, ptrdiff_t blocks, lstmx_team *team) {
    (void)shares; (void)share; (void)blocks;
    return !team->cancelled;
}
static inline void lstmx_finish(lstmx_shares *shares, int share, ptrdiff_t blocks) { shares->done[share] = blocks; }
static inline int lstmx_asker(const lstmx_rows *own) { (void)own; return LSTMX_OPEN; }
static inline void lstmx_give(lstmx_rows *own, lstmx_rows *asker, ptrdiff_t middle) { (void)own; (void)asker; (void)middle; }
static inline void lstmx_close(lstmx_rows *all, int me) { (void)all; (void)me; }
static inline int lstmx_get(lstmx_rows *all, int count, int me) { (void)all; (void)count; (void)me; return 0; }
static inline void lstmx_leave(lstmx_team *team) { team->left++; }
static inline int lstmx_left(lstmx_team *team) { return team->left; }
static inline void lstmx_pause(int spin) { (void)spin; }
static inline void lstmx_cancel(lstmx_team *team) { team->cancelled = 1; }
static inline int lstmx_cancelled(lstmx_team *team) { return team->cancelled; }
static inline int lstmx_stopped(lstmx_team *team) { return team->cancelled; }
static inline int lstmx_claim(int wanted, int budget) { (void)wanted; (void)budget; return 1; }
static inline void lstmx_release(int got) { (void)got; }
#endif
#endif
