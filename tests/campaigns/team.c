/* The ways in which loop.pyx uses c/team.h, on plain threads, for ThreadSanitizer: what members of a team pass to each
 * other is plain memory here as it is there, so that a missing order is a data race which it reports.
 *
 *     team SEED MEMBERS SECONDS [ROUND]
 *
 * runs rounds of random sizes until the time is over, or this round alone; prints what it did as JSON. Every round also
 * compares its numbers with those that one thread computes, and where the members stopped.
 */
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "team.h"

enum { MOST = 8, STEPS = 40, PARTS = 12, CALLERS = 3, KINDS = 4, LIMIT = 20 /* seconds of a round */ };

typedef struct {
    uint64_t state;
} Random;

static uint64_t draw(Random *random, uint64_t below) {
    random->state += 0x9E3779B97F4A7C15u;
    uint64_t z = random->state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) % below;
}

/* One call: what its members share. */
typedef struct {
    int kind, members, steps, rows, columns;
    int canceller, cancel_at;   /* the member that cancels, at which of its steps; -1: nobody */
    lstmx_team team;
    lstmx_shares row_shares, column_shares;
    int planned;                /* members that rows are meant for; some may never come */
    lstmx_rows rows_of[MOST];
    uint64_t h[STEPS + 1][PARTS];   /* by step: what each part computes from all parts, or its own, of the step before */
    uint64_t gradients[PARTS];
    long stopped_at[MOST], waits, takes;
} Call;

typedef struct {
    Call *call;
    int me;
    long waits, takes;
} Member;

static uint64_t mixed(uint64_t a, uint64_t b) { return (a ^ b) * 0x9E3779B97F4A7C15u + (a >> 7); }

static void maybe_cancel(Call *call, int me, int step) {
    if (me == call->canceller && step == call->cancel_at) lstmx_cancel(&call->team);
}

static void wait_for_all(Member *member) {
    lstmx_wait(&member->call->team, member->call->members);
    member->waits++;
}

static uint64_t sum_of_step(const Call *call, int step) {
    uint64_t sum = 0;
    for (int p = 0; p < call->members; p++) sum = mixed(sum, call->h[step][p]);
    return sum;
}

/* As forward_units: a barrier at every step, after it the question whether to stop. */
static void forward_units(Member *member) {
    Call *call = member->call;
    int s;
    for (s = 0; s < call->steps; s++) {
        call->h[s + 1][member->me] = sum_of_step(call, s) + (uint64_t)member->me;
        maybe_cancel(call, member->me, s);
        wait_for_all(member);
        if (lstmx_stopped(&call->team)) {
            s++;
            break;
        }
    }
    call->stopped_at[member->me] = s;
}

/* As backward_part: barriers at the steps of a block, and one after it where all may stop; then gradients of all parts. */
static void backward_units(Member *member) {
    Call *call = member->call;
    const int block = 4;
    int s;
    for (s = 0; s < call->steps; s++) {
        call->h[s + 1][member->me] = sum_of_step(call, s) + (uint64_t)member->me;
        wait_for_all(member);
        if ((s + 1) % block) continue;
        maybe_cancel(call, member->me, s);
        wait_for_all(member);
        if (lstmx_stopped(&call->team)) {
            s++;
            break;
        }
        call->gradients[member->me] = mixed(call->gradients[member->me], sum_of_step(call, s + 1));
    }
    call->stopped_at[member->me] = s;
}

/* As forward_dealt: rows go from step to step, and half of them to who has none left and asks. */
static void forward_dealt(Member *member) {
    Call *call = member->call;
    lstmx_rows *own = &call->rows_of[member->me];
    if (call->planned == call->members) wait_for_all(member);   /* else who comes first may have done all */
    for (int done = 0; lstmx_get(call->rows_of, call->planned, member->me); lstmx_close(call->rows_of, member->me)) {
        member->takes++;
        while (own->step < call->steps && !lstmx_cancelled(&call->team)) {
            for (ptrdiff_t r = own->first; r < own->stop; r++) {
                call->h[own->step + 1][r] = mixed(call->h[own->step][r], (uint64_t)r);
                call->row_shares.done[r] = own->step + 1;
            }
            own->step++;
            maybe_cancel(call, member->me, done++);
            const int asker = lstmx_asker(own);
            if (asker < 0) continue;
            if (own->stop - own->first > 1) lstmx_give(own, &call->rows_of[asker], (own->first + own->stop) / 2);
            else lstmx_close(call->rows_of, member->me);
        }
    }
}

/* As backward_shares: shares of rows, then of columns, which read all rows of a block. */
static void backward_shares(Member *member) {
    Call *call = member->call;
    lstmx_shares *rows = &call->row_shares, *columns = &call->column_shares;
    const int parts = rows->count + columns->count;
    for (int taken = 0;; taken++) {
        const ptrdiff_t item = lstmx_take(rows), block = item / parts;
        int part = (int)(item % parts);
        member->takes++;
        if (block >= call->steps) return;
        if (part < rows->count) {
            if (!lstmx_await(rows, part, block, &call->team)) return;
            call->h[block + 1][part] = mixed(call->h[block][part], (uint64_t)part);
            lstmx_finish(rows, part, block + 1);
        } else {
            part -= rows->count;
            for (int k = 0; k < rows->count; k++)
                if (!lstmx_await(rows, k, block + 1, &call->team)) return;
            if (!lstmx_await(columns, part, block, &call->team)) return;
            uint64_t sum = call->gradients[part];
            for (int k = 0; k < rows->count; k++) sum = mixed(sum, call->h[block + 1][k]);
            call->gradients[part] = sum;
            lstmx_finish(columns, part, block + 1);
        }
        maybe_cancel(call, member->me, taken);
        if (lstmx_cancelled(&call->team)) return;
    }
}

static void *work(void *argument) {
    static void (*const kinds[KINDS])(Member *) = {forward_units, backward_units, forward_dealt, backward_shares};
    Member *member = argument;
    kinds[member->call->kind](member);
    return NULL;
}

static void begin(Call *call, Random *random, int members) {
    memset(call, 0, sizeof *call);
    call->kind = (int)draw(random, KINDS);
    call->members = members;
    call->steps = 1 + (int)draw(random, STEPS);
    call->rows = 1 + (int)draw(random, PARTS);
    call->columns = 1 + (int)draw(random, PARTS);
    call->canceller = draw(random, 2) ? (int)draw(random, (uint64_t)members) : -1;
    call->cancel_at = (int)draw(random, (uint64_t)call->steps);
    call->row_shares.count = call->rows;
    call->column_shares.count = call->columns;
    call->planned = members + (draw(random, 2) ? (int)draw(random, (uint64_t)(MOST - members + 1)) : 0);
    for (int m = 0; m < call->planned; m++) {
        call->rows_of[m].state = LSTMX_UNTOUCHED;
        call->rows_of[m].begin = call->rows * m / call->planned;
        call->rows_of[m].end = call->rows * (m + 1) / call->planned;
    }
    for (int p = 0; p < PARTS; p++) call->h[0][p] = draw(random, UINT64_MAX);
}

static void run(Call *call) {
    pthread_t threads[MOST];
    Member members[MOST];
    for (int m = 0; m < call->members; m++) members[m] = (Member){call, m, 0, 0};
    for (int m = 1; m < call->members; m++)
        if (pthread_create(&threads[m], NULL, work, &members[m])) abort();
    work(&members[0]);
    for (int m = 1; m < call->members; m++) pthread_join(threads[m], NULL);
    for (int m = 0; m < call->members; m++) call->waits += members[m].waits, call->takes += members[m].takes;
}

/* 0: the call did what one thread does; else what is wrong. */
static const char *wrong(const Call *call) {
    static _Thread_local Call one;
    const int shares = call->kind >= 2, cancelled = lstmx_cancelled((lstmx_team *)&call->team);
    if (cancelled && call->canceller < 0) return "cancelled by nobody";
    one = *call;
    memset(one.h[1], 0, sizeof one.h - sizeof one.h[0]);
    memset(one.gradients, 0, sizeof one.gradients);
    const int parts = shares ? call->rows : call->members;
    int steps = shares ? call->steps : (int)call->stopped_at[0];
    for (int m = 0; !shares && m < call->members; m++)
        if (call->stopped_at[m] != steps) return "members stopped at different steps";
    if (!cancelled && steps != call->steps) return "stopped without being cancelled";
    for (int s = 0; s < steps; s++) {
        const int stop = cancelled && s + 1 == steps;
        for (int p = 0; p < parts; p++)
            one.h[s + 1][p] = shares ? mixed(one.h[s][p], (uint64_t)p) : sum_of_step(&one, s) + (uint64_t)p;
        if (call->kind == 1 && (s + 1) % 4 == 0 && !stop)
            for (int p = 0; p < parts; p++) one.gradients[p] = mixed(one.gradients[p], sum_of_step(&one, s + 1));
        for (int c = 0; call->kind == 3 && c < call->columns; c++)
            for (int p = 0; p < parts; p++) one.gradients[c] = mixed(one.gradients[c], one.h[s + 1][p]);
        for (int p = 0; p < parts; p++) {
            const int undone = shares && call->row_shares.done[p] <= s;
            if (undone && !cancelled) return "a share was not finished";
            if (!undone && call->h[s + 1][p] != one.h[s + 1][p]) return "other numbers than one thread's";
        }
    }
    if (!(shares && cancelled) && memcmp(call->gradients, one.gradients, sizeof one.gradients)) return "other gradients";
    return NULL;
}

/* Callers that make calls at the same time, each with a team of what is left of the budget. */
typedef struct {
    uint64_t seed;
    int members, round;
    long waits, takes, cancelled;
    const char *wrong;
} Caller;

static void *make_call(void *argument) {
    Caller *caller = argument;
    Random random = {caller->seed};
    static _Thread_local Call call;
    const int budget = 1 + (int)draw(&random, MOST), got = lstmx_claim(caller->members, budget);
    if (got < 1 || got > caller->members) caller->wrong = "claimed what was not there";
    begin(&call, &random, caller->round % 2 ? got : caller->members);
    run(&call);
    lstmx_release(got);
    caller->waits = call.waits, caller->takes = call.takes, caller->cancelled = lstmx_cancelled(&call.team);
    if (!caller->wrong) caller->wrong = wrong(&call);
    return NULL;
}

static volatile int now;   /* the round */

static void hangs(int signal) {
    char message[64];
    (void)signal;
    _exit(write(2, message, (size_t)snprintf(message, sizeof message, "round %d does not end\n", now)) < 0 ? 4 : 3);
}

int main(int count, char **given) {
    if (count < 4) return 2;
    const uint64_t seed = strtoull(given[1], NULL, 10);
    const int members = atoi(given[2]), only = count > 4 ? atoi(given[4]) : -1;
    const double end = lstmx_now() + atof(given[3]);
    long calls = 0, waits = 0, takes = 0, cancelled = 0;
    if (members < 1 || members > MOST) return 2;
    signal(SIGALRM, hangs);
    for (int round = only < 0 ? 0 : only; only < 0 ? lstmx_now() < end : round == only; round++) {
        Random random = {seed * 1000003u + (uint64_t)round};
        const int callers = 1 + (int)draw(&random, CALLERS);
        now = round;
        alarm(LIMIT);
        pthread_t threads[CALLERS];
        Caller all[CALLERS];
        for (int k = 0; k < callers; k++) {
            all[k] = (Caller){draw(&random, UINT64_MAX), members, round, 0, 0, 0, NULL};
            if (pthread_create(&threads[k], NULL, make_call, &all[k])) abort();
        }
        for (int k = 0; k < callers; k++) {
            pthread_join(threads[k], NULL);
            calls++, waits += all[k].waits, takes += all[k].takes, cancelled += all[k].cancelled;
            if (all[k].wrong) {
                fprintf(stderr, "%s; again: %s %s %d 1 %d\n", all[k].wrong, given[0], given[1], members, round);
                return 1;
            }
        }
        if (lstmx_active) {
            fprintf(stderr, "%d threads were not given back in round %d\n", lstmx_active, round);
            return 1;
        }
    }
    printf("{\"calls\": %ld, \"barriers\": %ld, \"shares\": %ld, \"cancelled\": %ld}\n", calls, waits, takes, cancelled);
    return 0;
}
