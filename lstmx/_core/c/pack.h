/* Weights as the tile wants them, and the products over packed weights. Expects tile.h.
 *
 * Gate panels of W (4H, K), rows in blocks i, f, g, o: units in groups of LANES, [group][k][gate][LANES], so that a tile ends
 * with the four gates of the same units. The last group has as few lanes as its units need (LANES / 4, LANES / 2 or LANES):
 * its four gates then share one, two or four vectors.
 * Column panels of B (K, n): columns in groups of 4 vectors, [group][k][4 LANES]; the last group has as few vectors as it
 * needs. What is beyond the last unit or column is 0. */

/* Lanes of the last, incomplete group of units; 0 if there is none. */
static ptrdiff_t FN(tail_lanes)(ptrdiff_t H) {
    const ptrdiff_t rest = H % LANES;
    return rest == 0 ? 0 : rest * 4 <= LANES ? LANES / 4 : rest * 2 <= LANES ? LANES / 2 : LANES;
}
/* 4H, rounded up to whole groups: the width of a row of z. */
static ptrdiff_t FN(gate_width)(ptrdiff_t H) { return 4 * (H / LANES * LANES + FN(tail_lanes)(H)); }
static ptrdiff_t FN(column_width)(ptrdiff_t n) { return (n + LANES - 1) / LANES * LANES; }

/* out[k * stride + l] := w[l * ld + k] for `lanes` rows of w (K long), 0 for the lanes up to `width`. */
static void FN(transpose)(ptrdiff_t lanes, ptrdiff_t width, ptrdiff_t K, const REAL *w, ptrdiff_t ld, REAL *out,
                          ptrdiff_t stride) {
    ptrdiff_t k = 0;
    if (lanes == width && width % 8 == 0)
        for (; k + 8 <= K; k += 8)
            for (ptrdiff_t l = 0; l < lanes; l += 8)
                UNROLL for (int kk = 0; kk < 8; kk++)
                    UNROLL for (int ll = 0; ll < 8; ll++) out[(k + kk) * stride + l + ll] = w[(l + ll) * ld + k + kk];
    for (; k < K; k++) {
        for (ptrdiff_t l = 0; l < lanes; l++) out[k * stride + l] = w[l * ld + k];
        for (ptrdiff_t l = lanes; l < width; l++) out[k * stride + l] = 0;
    }
}

static void FN(pack_gates)(ptrdiff_t H, ptrdiff_t K, const void *weights, void *panels) {
    const REAL *w = weights;
    REAL *out = panels;
    for (ptrdiff_t j = 0; j < H; j += LANES) {
        const ptrdiff_t units = H - j < LANES ? H - j : LANES, width = units < LANES ? FN(tail_lanes)(H) : LANES;
        for (int g = 0; g < 4; g++) FN(transpose)(units, width, K, w + (g * H + j) * K, K, out + g * width, 4 * width);
        out += K * 4 * width;
    }
}

/* B (K, n) = w, or its transpose if w is (n, K). */
static void FN(pack_columns)(int transposed, ptrdiff_t K, ptrdiff_t n, const void *weights, void *panels) {
    const REAL *w = weights;
    REAL *out = panels;
    for (ptrdiff_t j = 0; j < n; j += 4 * LANES) {
        const ptrdiff_t columns = n - j < 4 * LANES ? n - j : 4 * LANES, width = FN(column_width)(columns);
        if (transposed) FN(transpose)(columns, width, K, w + j * K, K, out, width);
        else
            for (ptrdiff_t k = 0; k < K; k++) {
                memcpy(out + k * width, w + k * n + j, (size_t)columns * sizeof(REAL));
                for (ptrdiff_t l = columns; l < width; l++) out[k * width + l] = 0;
            }
        out += K * width;
    }
}

enum { FN(CHUNK) = 36 };   /* rows that are summed together: they share the panel's block in the first cache */
#define CHUNK FN(CHUNK)

/* out (rows, n) := [out +] a (rows, K) B (K, n) for the groups of columns from..to of 4 vectors. */
static void FN(product)(ptrdiff_t rows, ptrdiff_t n, ptrdiff_t K, const void *left, ptrdiff_t ar, const void *panels,
                        void *result, ptrdiff_t ldo, int add, ptrdiff_t from, ptrdiff_t to) {
    const REAL *a = left;
    REAL *out = result;
    const int far = K * n * (ptrdiff_t)sizeof(REAL) > SECOND_CACHE;
    ALIGNED REAL z[CHUNK * 4 * LANES];
    if (rows == 1)   /* two groups side by side: one alone waits for its own additions */
        for (; from + 1 < to && (from + 2) * 4 * LANES <= n; from += 2) {
            const ptrdiff_t j = from * 4 * LANES;
            FN(operand) p = {a, 0, 1, (const REAL *)panels + K * j, 4 * LANES, K, 0, NULL, {NULL, 0}};
            REAL *sum = add ? z : out + j;
            FN(pair_panels)(NULL, &p, K * 4 * LANES, sum);
            if (add) for (int l = 0; l < 8 * LANES; l++) out[j + l] = out[j + l] + z[l];
        }
    for (ptrdiff_t group = from; group < to; group++) {
        const ptrdiff_t j = group * 4 * LANES, columns = n - j < 4 * LANES ? n - j : 4 * LANES;
        const ptrdiff_t width = FN(column_width)(columns);
        const REAL *b = (const REAL *)panels + K * j;
        for (ptrdiff_t r = 0; r < rows; r += CHUNK) {
            const ptrdiff_t height = rows - r < CHUNK ? rows - r : CHUNK;
            const int direct = columns == width && !add;
            REAL *to_z = direct ? out + r * ldo + j : z;
            FN(sum_blocks)((int)(width / LANES), height, (FN(start)){NULL, 0},
                           &(FN(operand)){a + r * ar, ar, 1, b, width, K, far, NULL, {NULL, 0}}, to_z, direct ? ldo : width);
            if (direct) continue;
            for (ptrdiff_t i = 0; i < height; i++) {
                REAL *row = out + (r + i) * ldo + j;
                const REAL *sum = z + i * width;
                if (add) for (ptrdiff_t l = 0; l < columns; l++) row[l] = row[l] + sum[l];
                else memcpy(row, sum, (size_t)columns * sizeof(REAL));
            }
        }
    }
}
