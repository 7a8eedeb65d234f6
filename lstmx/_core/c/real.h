/* All kernels for one REAL and one instruction set, and their table. Included twice by variant.h. */
#define FN(name) JOIN4(name, SUFFIX, _, ISA)
#define LOAD_TAIL(p) FN(load_part)(p, tail)
#define STORE_TAIL(p, v) FN(store_part)(p, v, tail)
#include "vector.h"
#include "vmath.h"
#include "cell.h"
#include "tile.h"
#include "pack.h"
#include "recurrent.h"
#include "rows.h"
#include "loss.h"

static const KERNELS FN(table) = {
    FN(map_sigmoid), FN(map_tanh), FN(map_exp), FN(cell_forward), FN(cell_backward),
    FN(activate), FN(activate_backward),
    FN(column_sum), FN(block_sum), FN(block_sum_of_squares), FN(dropout), FN(sgd), FN(rmsprop), FN(adam),
    FN(loss), FN(fma_chains),
};
static const lstmx_tile FN(tiles) = {
    LANES, FN(gate_width), FN(column_width), FN(pack_gates), FN(pack_columns), FN(any_product), FN(any_outer),
    FN(input_sums), FN(forward_steps), FN(open_rows), FN(close_rows), FN(backward_cells), FN(backward_carry),
    FN(weight_gradients), FN(turn),
};
#undef FN
#undef LOAD_TAIL
#undef STORE_TAIL
#undef LANES
#undef TERMS
#undef CHUNK
#undef TALLEST
#undef EACH
