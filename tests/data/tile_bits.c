/* Runs the tile of one instruction set (-DTABLE=lstmx_isa_...) forward and backward and writes the bytes of all results, so
 * that instruction sets can be compared where Python does not run. Built and run by tests/test_disassembly.py. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"

extern const lstmx_isa TABLE;

static uint64_t state = 1;
static double draw(void) {   /* in [-1, 1) */
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(state >> 40) / (1 << 23) - 1;
}

#define ROOM(T, count) ((T *)memset(aligned_alloc(64, (((size_t)(count) + 64) * sizeof(T) + 63) / 64 * 64), 0, \
                                    (((size_t)(count) + 64) * sizeof(T) + 63) / 64 * 64))

#define RUN(T)                                                                                                           \
    static void run_##T(const lstmx_tile *k, ptrdiff_t N, ptrdiff_t S, ptrdiff_t I, ptrdiff_t H, int reverse) {          \
        const ptrdiff_t G = 4 * H, rows = N * S, gr = (G + 15) / 16 * 16 + 16, hr = (H + 15) / 16 * 16 + 16;             \
        T *x = ROOM(T, rows * I), *wi = ROOM(T, G * I), *wh = ROOM(T, G * H), *b = ROOM(T, G);                           \
        T *h = ROOM(T, N * H), *c = ROOM(T, N * H), *y = ROOM(T, rows * H), *dy = ROOM(T, rows * H);                     \
        for (ptrdiff_t n = 0; n < rows * I; n++) x[n] = (T)draw();                                                       \
        for (ptrdiff_t n = 0; n < G * I; n++) wi[n] = (T)draw();                                                         \
        for (ptrdiff_t n = 0; n < G * H; n++) wh[n] = (T)draw();                                                         \
        for (ptrdiff_t n = 0; n < G; n++) b[n] = (T)draw();                                                              \
        for (ptrdiff_t n = 0; n < N * H; n++) { h[n] = (T)draw(); c[n] = (T)draw(); }                                    \
        for (ptrdiff_t n = 0; n < rows * H; n++) dy[n] = (T)draw();                                                      \
        T *pi = ROOM(T, I * k->gate_width(H)), *ph = ROOM(T, H * k->gate_width(H)), *pb = ROOM(T, k->gate_width(H));     \
        T *ci = ROOM(T, G * k->column_width(I)), *ch = ROOM(T, G * k->column_width(H));                                  \
        k->pack_gates(H, I, wi, pi);                                                                                     \
        k->pack_gates(H, H, wh, ph);                                                                                     \
        k->pack_gates(H, 1, b, pb);                                                                                      \
        k->pack_columns(0, G, I, wi, ci);                                                                                \
        k->pack_columns(0, G, H, wh, ch);                                                                                \
        lstmx_layer l = {.steps = S, .batch = N, .inputs = I, .hidden = H, .reverse = reverse, .x = x, .x_step = N * I,  \
                         .x_row = I, .w_ih = pi, .w_hh = ph, .bias = pb, .h = h, .c = c, .y = y, .y_step = N * H,        \
                         .y_row = H, .gates_row = gr, .h_row = hr, .c_row = hr, .dy = dy, .dy_row = H, .outputs = H};    \
        const lstmx_cell cell = {.gates = 4};                                                                            \
        const lstmx_vectors vectors = {NULL};                                                                            \
        lstmx_extra at;                                                                                                  \
        memset(&at, -1, sizeof at);   /* a plain cell needs nothing beside its gates */                                  \
        l.cell = &cell, l.vectors = &vectors, l.at = &at, l.memory = H, l.width = G;                                     \
        l.gates = ROOM(T, rows * gr);                                                                                    \
        l.h_prev = ROOM(T, rows * hr);                                                                                   \
        l.c_prev = ROOM(T, rows * hr);                                                                                   \
        l.dh = ROOM(T, N * H);                                                                                           \
        l.dc = ROOM(T, N * H);                                                                                           \
        T *dx = ROOM(T, rows * I), *dwi = ROOM(T, G * I), *dwh = ROOM(T, G * H), *db = ROOM(T, G);                       \
        const ptrdiff_t panels = (H + k->lanes - 1) / k->lanes, groups = (H + 4 * k->lanes - 1) / (4 * k->lanes);        \
        T *sums = ROOM(T, rows * k->gate_width(H));                                                                      \
        k->open_rows(&l);                                                                                                \
        if (I > 8) k->input_sums(&l, 0, S, 0, N, 0, panels, sums);                                                       \
        k->forward_steps(&l, 0, S, 0, N, 0, panels, I > 8 ? sums : NULL);                                                \
        k->close_rows(&l);                                                                                               \
        for (ptrdiff_t s = S - 1; s >= 0; s--) {                                                                         \
            const ptrdiff_t t = reverse ? S - 1 - s : s;                                                                 \
            k->backward_cells(&l, t, 0, N, 0, H);                                                                        \
            k->products.product(N, H, G, (T *)l.gates + t * N * gr, gr, ch, l.dh, H, 0, 0, groups);                      \
        }                                                                                                                \
        T *strip = ROOM(T, rows * 4 * k->lanes);                                                                         \
        k->products.outer(rows, 0, G, H, l.gates, gr, l.h_prev, hr, dwh, H, 0, strip);                                   \
        k->products.outer(rows, 0, G, I, l.gates, gr, x, I, dwi, I, 0, strip);                                           \
        k->sum_rows(rows, G, l.gates, gr, db, 0);                                                                        \
        k->products.product(rows, I, G, l.gates, gr, ci, dx, I, 0, 0, (I + 4 * k->lanes - 1) / (4 * k->lanes));          \
        fwrite(y, sizeof(T), (size_t)(rows * H), stdout);                                                                \
        fwrite(h, sizeof(T), (size_t)(N * H), stdout);                                                                   \
        fwrite(c, sizeof(T), (size_t)(N * H), stdout);                                                                   \
        fwrite(l.dh, sizeof(T), (size_t)(N * H), stdout);                                                                \
        fwrite(l.dc, sizeof(T), (size_t)(N * H), stdout);                                                                \
        fwrite(dx, sizeof(T), (size_t)(rows * I), stdout);                                                             \
        fwrite(dwi, sizeof(T), (size_t)(G * I), stdout);                                                             \
        fwrite(dwh, sizeof(T), (size_t)(G * H), stdout);                                                             \
        fwrite(db, sizeof(T), (size_t)G, stdout);                                                                      \
    }
RUN(float)
RUN(double)

int main(void) {
    static const ptrdiff_t shapes[][4] = {{1, 5, 1, 3}, {1, 4, 9, 17}, {2, 3, 70, 20}, {7, 3, 5, 33}, {13, 2, 20, 50},
                                          {40, 2, 3, 100}, {5, 3, 130, 64}, {1, 2, 2, 130}, {3, 2, 1, 8}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int reverse = 0; reverse < 2; reverse++) {
            run_float(TABLE.tiles[LSTMX_F32], shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], reverse);
            run_double(TABLE.tiles[LSTMX_F64], shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], reverse);
        }
    fprintf(stderr, "%s", TABLE.name);
    return 0;
}
