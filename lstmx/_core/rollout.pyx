"""The closed loop of lstmx.model.rollout: what a model gives for a step is what it reads at the next.

Rows do not depend on each other, so each thread takes some of them through all steps.
"""

from libc.math cimport isfinite, isnan
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

cimport numpy as cnp

from lstmx._core.core cimport (flush_subnormals, let_go, LSTMX_F64, lstmx_now, PyThreadState, real, restore_control,
                               take_back)
from lstmx._core.job cimport data, MOST_THREADS, size, worth_threads
from lstmx._core.kernels cimport apply_kernel, EXP_OF
from lstmx._core.loop cimport LONG_WORK, spread, stopped
from lstmx._core.plan cimport (advance, begin_state, Call, DONE, interrupt, INTERRUPTED, most_room, operations_of,
                               Plan, State, state_bytes)
from lstmx._core.program cimport Program

cnp.import_array()

cdef size ROWS_PER_THREAD = 4        # fewer make tiles too flat
cdef size AT_ONCE = 64               # rows of a thread that go through all steps before others, so that they stay in the cache

MODES = {"columns": 0, "argmax": 1, "probabilities": 2, "logits": 3}   # how results come of outputs

cdef enum Mode:
    COLUMNS, ARGMAX, PROBABILITIES, LOGITS

cdef struct Loop:
    const Plan *plan
    int mode
    double temperature
    size rows, steps, known    # R, steps, W: 0 where the state is carried
    size fed                   # outputs that are fed back
    const size *from_output
    const size *to_column
    char *y                    # (R, O)  IN the outputs after what is known, OUT the last
    void **states              # of each (layers, R, width)
    char *inputs               # (W + steps - 1, R, I)
    char *results              # (steps, R, O) float64, or (steps, R) int64
    const double *drawn        # (steps, R, O) or (steps, R), or NULL
    size at_once               # rows that a thread's room is for; a smaller team than was wanted has larger shares
    char *room                 # for each thread
    size room_bytes
    unsigned control           # the control word of the caller
    int outcome
    size failed                # step * R + row of outputs of which no token can be chosen


cdef size state_total(const Plan *plan, size rows) noexcept nogil:
    """Bytes of the states of so many rows, each at a cache line."""
    cdef size total = 0
    cdef int k
    for k in range(plan.state_count):
        total += state_bytes(&plan.states[k], rows) + 64
    return total


cdef void carry_states(const Loop *loop, size r0, size rows, void **copies, bint back) noexcept nogil:
    """The states of the rows r0.. to copies of their own, or back."""
    cdef const State *state
    cdef size layer, row
    cdef char *all_rows
    cdef char *some
    cdef int k
    for k in range(loop.plan.state_count):
        state = &loop.plan.states[k]
        row = state.width * state.value_bytes
        for layer in range(max(1, state.layers)):
            all_rows = <char *>loop.states[k] + (layer * loop.rows + r0) * row
            some = <char *>copies[k] + layer * rows * row
            memcpy(all_rows if back else some, some if back else all_rows, rows * row)


cdef void give_results(const Loop *loop, size j, size r0, size rows, const real *y, real *inputs) noexcept nogil:
    """Results of a step, and those that are fed back among the inputs of the next, if there is one."""
    cdef size O = loop.plan.outputs, I = loop.plan.inputs, r, k
    cdef double *out
    cdef const double *drawn = loop.drawn
    for r in range(r0, r0 + rows):
        out = <double *>loop.results + (j * loop.rows + r) * O
        for k in range(O):
            out[k] = y[r * O + k]
            if drawn != NULL:
                out[k] += drawn[(j * loop.rows + r) * O + k]
        if inputs != NULL:
            for k in range(loop.fed):
                inputs[r * I + loop.to_column[k]] = <real>out[loop.from_output[k]]


cdef size choose(const Loop *loop, const real *y, double drawn, double *weights) noexcept nogil:
    """The token that outputs (O,) and a number in [0, 1) choose; -1 if there is none."""
    cdef size O = loop.plan.outputs, k, best = 0
    cdef double total = 0
    for k in range(O):
        if isnan(y[k]):
            return -1
        if y[k] > y[best]:
            best = k
    if loop.mode == ARGMAX:
        return best
    for k in range(O):
        weights[k] = y[k]
    if loop.mode == LOGITS:
        for k in range(O):
            weights[k] = (weights[k] - <double>y[best]) / loop.temperature
        apply_kernel(LSTMX_F64, EXP_OF, O, weights, weights)
    for k in range(O):
        total += weights[k]
        weights[k] = total
    if not (total > 0 and isfinite(total)):
        return -1
    best = 0
    for k in range(O):
        best += weights[k] <= drawn * total
    return best


cdef bint give_tokens(Loop *loop, size j, size r0, size rows, const real *y, int64_t *inputs, double *weights) noexcept nogil:
    """As `give_results`; False if of some outputs no token can be chosen."""
    cdef size O = loop.plan.outputs, r, found
    for r in range(r0, r0 + rows):
        found = choose(loop, y + r * O, 0 if loop.drawn == NULL else loop.drawn[j * loop.rows + r], weights)
        if found < 0:
            loop.failed = j * loop.rows + r
            return False
        (<int64_t *>loop.results)[j * loop.rows + r] = found
        if inputs != NULL:
            inputs[r] = found
    return True


cdef bint give(Loop *loop, size j, size r0, size rows, double *weights) noexcept nogil:
    """Results of a step of the rows r0.., fed back; False if there is a result that is not possible."""
    cdef const Plan *plan = loop.plan
    cdef char *inputs = NULL
    if j + 1 < loop.steps:
        inputs = loop.inputs + (loop.known + j) * loop.rows * plan.inputs * plan.x_bytes
    if plan.itemsize == 4:
        if loop.mode == COLUMNS:
            give_results[float](loop, j, r0, rows, <float *>loop.y, <float *>inputs)
        else:
            return give_tokens[float](loop, j, r0, rows, <float *>loop.y, <int64_t *>inputs, weights)
    elif loop.mode == COLUMNS:
        give_results[double](loop, j, r0, rows, <double *>loop.y, <double *>inputs)
    else:
        return give_tokens[double](loop, j, r0, rows, <double *>loop.y, <int64_t *>inputs, weights)
    return True


cdef int run_rows(Loop *loop, size r0, size rows, char *room) noexcept nogil:
    """All steps of the rows r0.. ."""
    cdef const Plan *plan = loop.plan
    cdef Call call
    cdef double last = lstmx_now()
    cdef double *weights = <double *>room
    cdef size j, x_row = plan.inputs * plan.x_bytes
    cdef int k, outcome
    room += (plan.outputs * sizeof(double) + 63) & ~<size>63
    call.states = <void **>room
    room += (plan.state_count * sizeof(void *) + 63) & ~<size>63
    for k in range(plan.state_count):
        call.states[k] = room
        room += (state_bytes(&plan.states[k], rows) + 63) & ~<size>63
    call.rows, call.steps, call.budget, call.room = rows, max(1, loop.known), 1, room
    call.x_row, call.x_step = plan.inputs, loop.rows * plan.inputs
    call.y, call.y_row, call.y_step = loop.y + r0 * plan.outputs * plan.itemsize, plan.outputs, plan.outputs
    if loop.known == 0:
        carry_states(loop, r0, rows, call.states, False)
    for j in range(loop.steps):
        if not give(loop, j, r0, rows, weights):
            return DONE
        if j + 1 == loop.steps:
            break
        call.x = loop.inputs + ((j + (loop.known > 0)) * loop.rows + r0) * x_row
        if loop.known:
            for k in range(plan.state_count):
                begin_state(&plan.states[k], rows, <char *>call.states[k])
        outcome = advance(plan, &call)
        if outcome != DONE or loop.outcome != DONE or loop.failed >= 0:
            return outcome
        if stopped(&last):
            return INTERRUPTED
    if loop.known == 0:
        carry_states(loop, r0, rows, call.states, True)
    return DONE


cdef void loop_part(void *task, int me, int members) noexcept nogil:
    """One member's rows."""
    cdef Loop *loop = <Loop *>task
    cdef size r = loop.rows * me // members, end = loop.rows * (me + 1) // members, rows
    cdef unsigned flushed = flush_subnormals()
    cdef int outcome
    restore_control(loop.control)   # the parts of a step flush subnormals themselves, and a signal handler is Python
    while r < end and loop.outcome == DONE and loop.failed < 0:
        rows = min(loop.at_once, end - r)
        outcome = run_rows(loop, r, rows, loop.room + me * loop.room_bytes)
        if outcome != DONE:
            loop.outcome = outcome
        r += rows
    restore_control(flushed)


def run(Program program, mode, double temperature, cnp.ndarray y, states, cnp.ndarray inputs, cnp.ndarray results,
        cnp.ndarray drawn, cnp.ndarray from_output, cnp.ndarray to_column, size known):
    """All steps of a rollout of R rows. Every array is C-contiguous, and checked by the caller.

    Parameters
    ----------
    program : whose outputs are those of the last step it reads
    mode : one of MODES
    temperature : that logits are divided by
    y : (R, O)  # IN the outputs after what is known
    states : of R rows, as layers have them; None with a window  # IN after what is known, OUT after the last input
    inputs : (W + steps - 1, R, I) of the model's type, or (W + steps - 1, R) of int64  # IN but what is fed back
    results : (steps, R, O) of float64, or (steps, R) of int64  # OUT
    drawn : of the same shape in float64, or None  # IN
    from_output, to_column : of intp, which output is fed back to which column
    known : W, the steps of a window, or 0

    Returns
    -------
    int
        -1; or step * R + row of outputs of which no token can be chosen. None if the states do not fit.
    """
    cdef const Plan *plan = &program.plan
    cdef Loop loop
    cdef PyThreadState *thread
    cdef cnp.npy_intp length
    cdef double work
    cdef int threads, k
    cdef size own
    cdef void **pointers
    memset(&loop, 0, sizeof(Loop))
    loop.plan, loop.mode, loop.temperature, loop.failed = plan, MODES[mode], temperature, -1
    loop.steps, loop.rows, loop.known = cnp.PyArray_DIM(results, 0), cnp.PyArray_DIM(results, 1), known
    loop.fed, loop.from_output, loop.to_column = cnp.PyArray_SIZE(from_output), <size *>data(from_output), <size *>data(to_column)
    loop.y, loop.inputs, loop.results = <char *>data(y), <char *>data(inputs), <char *>data(results)
    loop.drawn = <double *>data(drawn)
    if loop.steps == 0 or loop.rows == 0:
        return -1
    found = [] if states is None else program.flat(states, loop.rows)
    if found is None or known == 0 and len(found) < plan.state_count:
        return None
    work = operations_of(plan, loop.rows, loop.steps * max(1, known))
    threads = program.threads() if worth_threads(work) else 1
    threads = <int>max(1, min(min(threads, <int>MOST_THREADS), loop.rows // ROWS_PER_THREAD))
    loop.at_once = min(AT_ONCE, (loop.rows + threads - 1) // threads)
    own = plan.outputs * sizeof(double) + plan.state_count * sizeof(void *) + 256 + state_total(plan, loop.at_once)
    loop.room_bytes = (own + most_room(plan, loop.at_once) + 63) & ~<size>63
    length = threads * loop.room_bytes + plan.state_count * sizeof(void *) + 64
    room = cnp.PyArray_EMPTY(1, &length, cnp.NPY_UINT8, 0)
    loop.room = <char *>((<size>data(room) + 63) & ~<size>63)
    pointers = <void **>(loop.room + threads * loop.room_bytes)
    for k in range(len(found)):
        pointers[k] = data(found[k])
    loop.states = pointers
    loop.control = flush_subnormals()
    restore_control(loop.control)
    thread = let_go(work > LONG_WORK)
    spread(loop_part, &loop, threads, threads, work)
    take_back(thread)
    interrupt(loop.outcome)
    return loop.failed
