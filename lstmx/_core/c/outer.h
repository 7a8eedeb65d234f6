/* What a backward pass adds up over rows: outer products, sums; and products element by element. Expects tile.h and pack.h. */

enum { FN(PIECE) = 96 };   /* terms of an outer product's chains whose b stays in the first cache for a CHUNK of its rows */

/* The rows m..m + count of `outer` for the columns of p->b, `columns` of them: the chains piece by piece. p is used up. */
static void FN(outer_rows)(ptrdiff_t count, FN(operand) *p, int C, ptrdiff_t columns, REAL *out, ptrdiff_t ldo, int add) {
    ALIGNED REAL z[CHUNK * 4 * LANES];
    const ptrdiff_t width = C * LANES, tall = TALLEST(C), groups = (count + tall - 1) / tall, height = count / groups;
    const ptrdiff_t taller = count % groups, first = taller * (height + 1), rows = p->count;
    const int direct = columns == width;
    const REAL *a = p->a, *b = p->b;
    for (ptrdiff_t k = 0; k < rows; k += FN(PIECE)) {
        const int last = k + FN(PIECE) >= rows, to_out = last && direct;
        FN(start) start = {to_out && add ? out : NULL, ldo};
        p->a = a + k * p->ak;
        p->b = b + k * p->bk;
        p->count = last ? rows - k : FN(PIECE);
        p->chain.from = k ? z : NULL;
        p->chain.row = width;
        REAL *to = to_out ? out : z;
        const ptrdiff_t to_row = to_out ? ldo : width;
        if (taller) FN(sum_groups)(C, height + 1, taller, start, p, to, to_row);
        p->a += first * p->ar;
        if (k) p->chain.from += first * width;
        if (start.from) start.from += first * ldo;
        FN(sum_groups)(C, height, groups - taller, start, p, to + first * to_row, to_row);
    }
    for (ptrdiff_t r = 0; r < count && !direct; r++) {
        REAL *row = out + r * ldo;
        const REAL *sum = z + r * width;
        if (add) for (ptrdiff_t l = 0; l < columns; l++) row[l] = row[l] + sum[l];
        else memcpy(row, sum, (size_t)columns * sizeof(REAL));
    }
}

enum { FN(FEW) = 8 };   /* rows of an outer product up to which what is written takes longer than what is computed */

/* `outer` of a few rows: whole rows of `out` one after the other, not the columns of a tile with a page for each row. */
static void FN(outer_few)(ptrdiff_t rows, ptrdiff_t m0, ptrdiff_t m1, ptrdiff_t n, const REAL *a, ptrdiff_t lda, const REAL *b,
                          ptrdiff_t ldb, REAL *out, ptrdiff_t ldo, int add) {
    const ptrdiff_t whole = n / LANES * LANES, rest = n - whole;
    for (ptrdiff_t m = m0; m < m1; m++) {
        REAL *row = out + m * ldo;
        for (ptrdiff_t j = 0; j < whole; j += LANES) {
            FN(vec) sum = FN(splat)(0);
            for (ptrdiff_t k = 0; k < rows; k++) sum = FN(vfma)(FN(splat)(a[k * lda + m]), FN(load)(b + k * ldb + j), sum);
            FN(store)(row + j, add ? FN(load)(row + j) + sum : sum);
        }
        if (rest) {
            FN(vec) sum = FN(splat)(0);
            for (ptrdiff_t k = 0; k < rows; k++)
                sum = FN(vfma)(FN(splat)(a[k * lda + m]), FN(load_part)(b + k * ldb + whole, rest), sum);
            FN(store_part)(row + whole, add ? FN(load_part)(row + whole, rest) + sum : sum, rest);
        }
    }
}

enum { FN(MANY) = 2048 / sizeof(REAL) };   /* columns of b from which on a, read for each panel, comes from afar */

/* Values of the scratch of `outer`. */
static ptrdiff_t FN(outer_room)(ptrdiff_t rows, ptrdiff_t n) { return rows * (FN(column_width)(n) + CHUNK); }

/* `width` columns of b from column j on brought together, with 0 from its n-th on. */
static void FN(outer_panel)(ptrdiff_t rows, ptrdiff_t j, ptrdiff_t n, const REAL *b, ptrdiff_t ldb, REAL *panel, ptrdiff_t width) {
    const ptrdiff_t columns = n - j < width ? n - j : width;
    for (ptrdiff_t r = 0; r < rows; r++, panel += width) {
        memcpy(panel, b + r * ldb + j, (size_t)columns * sizeof(REAL));
        for (ptrdiff_t l = columns; l < width; l++) panel[l] = 0;
    }
}

/* out (m0..m1 of m, n) := [out +] the sum over `rows` rows of a[row][m] b[row][n]: one chain of all the rows. With `scratch`, of
 * outer_room(rows, n) values, the panels of b are brought together; without, they are read where they lie, whole vectors to b's
 * row's end. */
static void FN(outer)(ptrdiff_t rows, ptrdiff_t m0, ptrdiff_t m1, ptrdiff_t n, const void *left, ptrdiff_t lda,
                      const void *right, ptrdiff_t ldb, void *to, ptrdiff_t ldo, int add, void *scratch) {
    const REAL *a = left, *b = right;
    REAL *out = to, *panels = scratch;
    const ptrdiff_t tall = 4 * LANES;
    if (rows <= FN(FEW)) {
        FN(outer_few)(rows, m0, m1, n, a, lda, b, ldb, out, ldo, add);
    } else if (!scratch || n < FN(MANY)) {   /* a panel goes by all of a */
        for (ptrdiff_t j = 0; j < n; j += tall) {
            const ptrdiff_t columns = n - j < tall ? n - j : tall, width = FN(column_width)(columns);
            if (scratch) FN(outer_panel)(rows, j, n, b, ldb, panels, width);
            for (ptrdiff_t m = m0; m < m1; m += CHUNK) {
                FN(operand) p = {a + m, 1, lda, scratch ? panels : b + j, scratch ? width : ldb, rows, 0, NULL, {NULL, 0}};
                FN(outer_rows)(m1 - m < CHUNK ? m1 - m : CHUNK, &p, (int)(width / LANES), columns, out + m * ldo + j, ldo, add);
            }
        }
    } else {   /* many panels go by a CHUNK of a's columns, brought together too: its rows lie pages apart */
        REAL *part = panels + rows * FN(column_width)(n);
        for (ptrdiff_t j = 0; j < n; j += tall)
            FN(outer_panel)(rows, j, n, b, ldb, panels + rows * j, FN(column_width)(n - j < tall ? n - j : tall));
        for (ptrdiff_t m = m0; m < m1; m += CHUNK) {
            const ptrdiff_t count = m1 - m < CHUNK ? m1 - m : CHUNK;
            for (ptrdiff_t r = 0; r < rows; r++) memcpy(part + r * CHUNK, a + r * lda + m, (size_t)count * sizeof(REAL));
            for (ptrdiff_t j = 0; j < n; j += tall) {
                const ptrdiff_t columns = n - j < tall ? n - j : tall, width = FN(column_width)(columns);
                FN(operand) p = {part, 1, CHUNK, panels + rows * j, width, rows, 0, NULL, {NULL, 0}};
                FN(outer_rows)(count, &p, (int)(width / LANES), columns, out + m * ldo + j, ldo, add);
            }
        }
    }
}

/* out (n) := [out +] the sum of x over `rows` rows, one chain for each column. */
static void FN(sum_rows)(ptrdiff_t rows, ptrdiff_t n, const void *from, ptrdiff_t ldx, void *to, int add) {
    const REAL *x = from;
    REAL *out = to;
    for (ptrdiff_t j = 0; j < n; j += 4 * LANES) {
        const ptrdiff_t width = n - j < 4 * LANES ? n - j : 4 * LANES;
        REAL part[4 * LANES] = {0};
        if (width == 4 * LANES)
            for (ptrdiff_t r = 0; r < rows; r++)
                for (int l = 0; l < 4 * LANES; l++) part[l] = part[l] + x[r * ldx + j + l];
        else
            for (ptrdiff_t r = 0; r < rows; r++)
                for (ptrdiff_t l = 0; l < width; l++) part[l] = part[l] + x[r * ldx + j + l];
        for (ptrdiff_t l = 0; l < width; l++) out[j + l] = add ? out[j + l] + part[l] : part[l];
    }
}

/* to (n) := the sum of `parts` arrays, one after the other: the first at `from`, each next one `apart` values behind. */
static void FN(sum_parts)(ptrdiff_t n, int parts, ptrdiff_t apart, const void *from, void *to) {
    const REAL *x = from;
    REAL *out = to;
    for (ptrdiff_t j = 0; j < n; j++) {
        REAL sum = x[j];
        for (int k = 1; k < parts; k++) sum = sum + x[j + k * apart];
        out[j] = sum;
    }
}

static void FN(multiply_rows)(ptrdiff_t rows, ptrdiff_t n, const void *a_, ptrdiff_t a_row, const void *b_, ptrdiff_t b_row,
                              void *out_, ptrdiff_t out_row, int add) {
    const REAL *a = a_, *b = b_;
    REAL *out = out_;
    for (; rows > 0; rows--, a += a_row, b += b_row, out += out_row)
        if (add) for (ptrdiff_t j = 0; j < n; j++) out[j] = out[j] + a[j] * b[j];
        else for (ptrdiff_t j = 0; j < n; j++) out[j] = a[j] * b[j];
}
