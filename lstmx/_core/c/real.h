/* All kernels for one REAL and one instruction set, and their tables. Included by variant.h once for each format. */
#define FN(name) JOIN4(name, SUFFIX, _, ISA)
#define LOAD_TAIL(p) FN(load_part)(p, tail)
#define STORE_TAIL(p, v) FN(store_part)(p, v, tail)
#include "vector.h"
#include "vmath.h"
#include "cell.h"
#include "tile.h"
#include "pack.h"
#include "rows.h"
#include "family.h"
#include "recurrent.h"
#include "outer.h"
#include "loss.h"

#define KERNEL(RETURN, NAME, ARGUMENTS) .NAME = FN(NAME),
static const lstmx_kernels FN(kernel_table) = {
#include "kernels.h"
};
#undef KERNEL
static const lstmx_tile FN(tile_table) = {
    .lanes = LANES, .products = {FN(product), FN(outer)}, .gate_width = FN(gate_width), .column_width = FN(column_width),
    .outer_room = FN(outer_room), .pack_gates = FN(pack_gates), .pack_columns = FN(pack_columns), .input_sums = FN(input_sums),
    .forward_steps = FN(forward_steps), .open_rows = FN(open_rows), .close_rows = FN(close_rows),
    .forward_cells = FN(forward_cells), .finish_outputs = FN(finish_outputs), .open_gradients = FN(open_gradients),
    .backward_cells = FN(backward_cells), .multiply_rows = FN(multiply_rows), .sum_rows = FN(sum_rows), .sum_parts = FN(sum_parts),
};
#undef FN
#undef LOAD_TAIL
#undef STORE_TAIL
#undef LANES
#undef TERMS
#undef CHUNK
#undef TALLEST
#undef EACH
