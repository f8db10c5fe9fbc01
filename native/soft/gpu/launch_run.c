/* SPDX-License-Identifier: Apache-2.0
 *
 * Executes a kernel command: blocks in order, on the stream's thread and the pool's; what they
 * counted becomes the command's modelled time, the ledger and the counters.
 *
 * Model: launch + max(instructions / rate, bytes / bandwidth) + waves * longest sleep, where a
 * kernel with fewer blocks than SMs gets the rate of as many SMs as it has blocks.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/context.h"
#include "soft/gpu/launch.h"

#define TOGETHER_MAX 4224u /* blocks under way at once where they may wait for each other */
#define PIECE_MOST   32u   /* blocks that a thread takes at a time */
#define PIECES_LEFT  4u    /* of a thread when it takes one, at least */
/* Of these a thread takes one block at a time: another form may come, or a block wait for the next
 * one, which nobody else could begin. */
#define ONE_AT_A_TIME    (PTX_KERNEL_QUICK | PTX_KERNEL_GRID_SYNC | PTX_KERNEL_WAITS)
#define ASK_INSTRUCTIONS (1u << 15) /* some 10 us: the engine is asked for after so many */

struct job {
    struct soft_launch *launch;
    struct soft_run *run;
    struct ptx_launch bound;
    uint64_t blocks;
    pthread_t stream_thread;
    bool together;               /* all blocks must be under way at once */
    atomic_bool short_of_memory; /* others waited for a block, and there was none for it */
    bool helped;                 /* other threads run blocks too */
    struct soft_grid grid;
    struct soft_spin spin;
    _Atomic uint64_t next; /* block to take */
    _Atomic int stop;      /* enum ptx_stop of the first that stopped early */
    pthread_mutex_t lock;  /* guards what follows */
    uint64_t instructions, load_bytes, store_bytes, sleep_ns, done;
    uint64_t fault_addr;
    char fault_where[160];
};

struct sums {
    uint64_t instructions, load_bytes, store_bytes, sleep_ns, done;
};

static void fault(struct job *job, enum ptx_stop stop, const struct ptx_block *block)
{
    int none = PTX_STOP_DONE;
    if (!atomic_compare_exchange_strong(&job->stop, &none, (int)stop))
        return;
    atomic_store(&job->run->stop, 1); /* others may be waiting for this block */
    pthread_mutex_lock(&job->lock);
    job->fault_addr = block->fault_addr;
    snprintf(job->fault_where, sizeof job->fault_where, "%s",
             block->fault_where != NULL ? block->fault_where : job->launch->code->name);
    pthread_mutex_unlock(&job->lock);
    soft_grid_wake(&job->grid);
}

/* The kernel's code as of now: a faster form may come while a launch runs. */
static const struct ptx_kernel *code_of(const struct job *job)
{
    return atomic_load_explicit(&job->launch->function->kernel->code, memory_order_acquire);
}

struct piece { /* blocks that follow each other, for one thread to run */
    uint64_t at, end;
    uint32_t ctaid[3], smid; /* of `at` */
};

/* Blocks that lie side by side mostly touch memory that does, so a thread takes some at a time:
 * fewer towards the end, and one where the form of the code may change or blocks wait for others.
 */
static bool take(struct job *job, bool one, struct piece *piece)
{
    const uint32_t *grid = job->launch->shape.grid;
    uint64_t next = atomic_load_explicit(&job->next, memory_order_relaxed);
    uint64_t left = next < job->blocks ? job->blocks - next : 0;
    uint64_t count = one ? 1 : left / (PIECES_LEFT * soft_pool_width());
    count = count < 1 ? 1 : count > PIECE_MOST ? PIECE_MOST : count;
    uint64_t at = atomic_fetch_add(&job->next, count);
    if (at >= job->blocks)
        return false;
    *piece = (struct piece){
        .at = at,
        .end = count < job->blocks - at ? at + count : job->blocks,
        .ctaid = {(uint32_t)(at % grid[0]), (uint32_t)(at / grid[0] % grid[1]),
                  (uint32_t)(at / grid[0] / grid[1])},
        .smid = (uint32_t)(at % job->bound.sm_count),
    };
    return true;
}

static void step(const struct job *job, struct piece *piece)
{
    const uint32_t *grid = job->launch->shape.grid;
    piece->at++;
    if (++piece->smid == job->bound.sm_count)
        piece->smid = 0;
    if (++piece->ctaid[0] < grid[0])
        return;
    piece->ctaid[0] = 0;
    if (++piece->ctaid[1] < grid[1])
        return;
    piece->ctaid[1] = 0;
    piece->ctaid[2]++;
}

/* Runs blocks until there are no more, or there is other code and `stay` is not set: then true. */
static bool run_blocks(struct job *job, const struct ptx_kernel *code, bool stay,
                       unsigned char *shared, uint32_t shared_bytes, void *scratch,
                       struct sums *sums)
{
    bool one = (code->flags & ONE_AT_A_TIME) != 0;
    uint64_t asked_at = 0; /* sums->instructions */
    struct piece piece = {0};
    for (bool first = true; job->stop == PTX_STOP_DONE; first = false) {
        if (piece.at == piece.end && !take(job, one, &piece))
            break;
        struct ptx_block block = {
            .ctaid = {piece.ctaid[0], piece.ctaid[1], piece.ctaid[2]},
            .smid = piece.smid,
            .shared = shared,
            .shared_bytes = shared_bytes,
            .scratch = scratch,
        };
        if (!first && sums->instructions - asked_at < ASK_INSTRUCTIONS)
            soft_run_asked_lately();
        else
            asked_at = sums->instructions;
        enum ptx_stop stop = code->run_block(&job->bound, &block);
        step(job, &piece);
        sums->instructions += block.instructions;
        sums->load_bytes += block.load_bytes;
        sums->store_bytes += block.store_bytes;
        if (block.sleep_ns > sums->sleep_ns)
            sums->sleep_ns = block.sleep_ns;
        sums->done++;
        /* Before those are woken who can wait for it no longer: theirs is not the reason. */
        if (stop != PTX_STOP_DONE)
            fault(job, stop, &block);
        soft_grid_block_ended(&job->grid);
        if ((code->flags & PTX_KERNEL_QUICK) == 0)
            continue;
        if (sums->instructions >= SOFT_HOT_INSTRUCTIONS)
            soft_kernel_is_hot(job->launch->function->kernel);
        if (!stay && code_of(job) != code)
            return true;
    }
    return false;
}

static uint64_t resident_blocks(const struct job *job)
{
    return (uint64_t)job->launch->per_sm * (uint64_t)soft_ctx_profile(job->run->ctx)->sm_count;
}

static void no_memory(struct job *job)
{
    job->short_of_memory = true;
    atomic_store(&job->run->stop, 1); /* others may be waiting for its block */
    soft_grid_wake(&job->grid);
}

/* A block waits in a loop, maybe for one that has not begun. */
static void spins(const struct ptx_launch *launch)
{
    struct soft_run *run = launch->host_data;
    struct soft_grid *grid = run->user;
    struct job *job = grid->job;
    uint64_t next = job->next;
    if (!job->together && next < job->blocks && soft_spin_due(&job->spin)) {
        uint64_t most = resident_blocks(job);
        pthread_mutex_lock(&grid->lock);
        uint64_t ended = grid->ended;
        pthread_mutex_unlock(&grid->lock);
        if (!soft_spin_look(&job->spin, ended, job->blocks - next,
                            most < TOGETHER_MAX ? most : TOGETHER_MAX))
            no_memory(job);
    }
    sched_yield(); /* to those that are waited for */
}

static void run_code(struct job *job, bool helper, struct sums *sums)
{
    const struct soft_shape *shape = &job->launch->shape;
    uint64_t threads = (uint64_t)shape->block[0] * shape->block[1] * shape->block[2];
    bool again = true, stay = false;
    while (again) {
        const struct ptx_kernel *code = stay ? job->launch->code : code_of(job);
        uint32_t shared_bytes = code->static_shared_bytes + shape->dynamic_bytes;
        /* (1) Shared memory has whatever was there, as on hardware; nobody may count on zeroes. */
        struct soft_buffer shared = {0}, scratch = {0};
        bool ready =
            soft_buffer_take(shared_bytes, &shared) &&
            soft_buffer_take(code->scratch_fixed_bytes + threads * code->scratch_thread_bytes,
                             &scratch);
        again = false;
        if (ready) {
            if (helper)
                soft_run_enter(job->run);
            again = run_blocks(job, code, stay, shared.data, shared_bytes, scratch.data, sums);
            if (again)
                soft_log("kernel_goes_on kernel=%s block=%llu of=%llu", code->name,
                         (unsigned long long)job->next, (unsigned long long)job->blocks);
            if (helper)
                soft_run_leave(job->run);
        } else if (code != job->launch->code) {
            /* The other form may need much more: the one that was launched goes on. */
            soft_log("kernel_stays_quick kernel=%s why=\"no host memory for a block\"", code->name);
            again = stay = true;
        } else if (job->together) {
            no_memory(job);
        } else {
            soft_spin_starved(&job->spin);
        }
        if (shared.data != NULL)
            soft_buffer_give(&shared);
        if (scratch.data != NULL)
            soft_buffer_give(&scratch);
    }
}

static void run_part(struct job *job, bool helper)
{
    struct sums sums = {0};
    run_code(job, helper, &sums);
    /* (2) A thread that only waits for helpers executes nothing. Counted as executing, it would
     * keep the engine from being handed on, and its helpers, parked for that, from ending. */
    if (!helper && job->helped)
        soft_run_leave(job->run);
    pthread_mutex_lock(&job->lock);
    job->instructions += sums.instructions;
    job->load_bytes += sums.load_bytes;
    job->store_bytes += sums.store_bytes;
    job->done += sums.done;
    if (sums.sleep_ns > job->sleep_ns)
        job->sleep_ns = sums.sleep_ns;
    pthread_mutex_unlock(&job->lock);
}

/* One thread's part; runs on the stream's thread and on helpers. */
static void work(void *arg)
{
    struct job *job = arg;
    bool helper = !pthread_equal(pthread_self(), job->stream_thread);
    if (helper && job->next >= job->blocks)
        return; /* woken too late */
    soft_spin_enter(&job->spin);
    run_part(job, helper);
    soft_spin_leave(&job->spin);
}

/* The part of a thread that was begun because all others waited. */
static void *begun(void *arg)
{
    struct job *job = arg;
    run_part(job, true);
    soft_spin_leave(&job->spin);
    return NULL;
}

/* What locked clocks leave of the rate. */
static double clock_share(const struct soft_ctx *ctx)
{
    double most_khz =
        (double)soft_state_sm_most_mhz(soft_the_state, soft_at(soft_ctx_ordinal(ctx))) * 1000;
    return most_khz / (double)soft_ctx_profile(ctx)->clock_khz;
}

static uint64_t modelled_ns(const struct job *job, const struct soft_profile *profile)
{
    double sms = (double)profile->sm_count;
    double share = (double)job->blocks < sms ? (double)job->blocks / sms : 1.0;
    double compute =
        (double)job->instructions / (profile->flops_per_ns * share * clock_share(job->run->ctx));
    double memory = (double)(job->load_bytes + job->store_bytes) / profile->hbm_bytes_per_ns;
    uint64_t resident = resident_blocks(job);
    uint64_t waves = (job->blocks + resident - 1) / resident;
    uint64_t busy = (uint64_t)(compute > memory ? compute : memory);
    return profile->launch_ns + busy + waves * job->sleep_ns;
}

static CUresult result_of(enum ptx_stop stop)
{
    switch (stop) {
    case PTX_STOP_DONE:
        return CUDA_SUCCESS;
    case PTX_STOP_ILLEGAL_ADDRESS:
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    case PTX_STOP_MISALIGNED:
        return CUDA_ERROR_MISALIGNED_ADDRESS;
    case PTX_STOP_TRAP:
        return CUDA_ERROR_LAUNCH_FAILED;
    case PTX_STOP_ASSERT:
        return CUDA_ERROR_ASSERT;
    case PTX_STOP_ILLEGAL_INSTRUCTION:
        return CUDA_ERROR_ILLEGAL_INSTRUCTION;
    case PTX_STOP_STACK:
        return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    case PTX_STOP_ABANDONED:
        return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    }
    return CUDA_ERROR_LAUNCH_FAILED;
}

static CUresult execute(struct job *job)
{
    const char *name = job->launch->code->name;
    job->together = (job->launch->code->flags & PTX_KERNEL_GRID_SYNC) != 0 && job->blocks > 1;
    job->helped = job->blocks > 1;
    if (job->together) {
        /* A grid that does not fit the device cannot count on more than its order: blocks begin one
         * after the other as earlier ones end. One that fits may wait for any of its blocks. */
        uint64_t resident = resident_blocks(job), at_once = job->blocks;
        if (at_once > resident)
            at_once = resident < TOGETHER_MAX ? resident : TOGETHER_MAX;
        if (at_once > TOGETHER_MAX) {
            soft_log(
                "kernel_failed kernel=%s why=\"its blocks wait for each other (in a loop, or at a "
                "barrier of the grid): all %llu must run at once, as they would on the device "
                "(up to %llu); here at most %u can\"",
                name, (unsigned long long)job->blocks, (unsigned long long)resident, TOGETHER_MAX);
            return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
        }
        if (soft_pool_run_all((unsigned)at_once, work, job) != 0) {
            soft_log(
                "kernel_failed kernel=%s why=\"its blocks wait for each other, and this process "
                "gets no thread for each of %llu\"",
                name, (unsigned long long)at_once);
            return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
        }
    } else {
        unsigned width = soft_pool_width();
        unsigned helpers = job->blocks < width ? (unsigned)job->blocks - 1 : width - 1;
        soft_pool_run(helpers, work, job);
    }
    soft_spin_join(&job->spin);
    CUresult result = result_of((enum ptx_stop)job->stop);
    if ((job->done < job->blocks && result == CUDA_SUCCESS) ||
        (job->short_of_memory && job->stop == PTX_STOP_ABANDONED)) {
        soft_log("kernel_failed kernel=%s why=\"no host memory for a block\"", name);
        return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    }
    if (result != CUDA_SUCCESS && job->stop != PTX_STOP_ABANDONED)
        soft_log("kernel_failed kernel=%s code=%d where=\"%s\" address=0x%llx", name, (int)result,
                 job->fault_where, (unsigned long long)job->fault_addr);
    return result;
}

CUresult soft_launch_run(struct soft_cmd *cmd, struct soft_run *run)
{
    static _Atomic uint64_t grids;
    struct soft_launch *launch = (struct soft_launch *)cmd;
    const struct soft_shape *shape = &launch->shape;
    struct ptx_host host = soft_ptx_host;
    host.vprintf = soft_device_printf;
    host.grid_sync = soft_grid_sync;
    host.spins = spins;
    struct job job = {
        .launch = launch,
        .run = run,
        .blocks = (uint64_t)shape->grid[0] * shape->grid[1] * shape->grid[2],
        .stream_thread = pthread_self(),
        .lock = PTHREAD_MUTEX_INITIALIZER,
    };
    soft_grid_init(&job.grid, job.blocks);
    job.grid.job = &job;
    run->user = &job.grid;
    memcpy(job.bound.grid, shape->grid, sizeof job.bound.grid);
    memcpy(job.bound.block, shape->block, sizeof job.bound.block);
    job.bound.dyn_shared_bytes = shape->dynamic_bytes;
    job.bound.flags = shape->cooperative ? PTX_LAUNCH_COOPERATIVE : 0;
    job.bound.params = launch->params;
    job.bound.params_bytes = (uint32_t)launch->params_bytes;
    job.bound.global_addrs = launch->function->module->global_addrs;
    job.bound.grid_id = ++grids;
    soft_launch_bind(run, &job.bound);
    job.bound.host = &host;
    CUresult result = soft_ctx_local(run->ctx, launch->function->kernel->entry->local_bytes);
    if (result != CUDA_SUCCESS) { /* a graph's: nobody asked before */
        soft_grid_destroy(&job.grid);
        pthread_mutex_destroy(&job.lock);
        return result;
    }
    soft_spin_init(&job.spin, begun, &job);
    result = execute(&job);
    run->modelled_ns = modelled_ns(&job, soft_ctx_profile(run->ctx));
    struct soft_counter *counter = launch->function->kernel->counter;
    counter->launches++;
    counter->blocks += job.done;
    counter->threads += job.done * shape->block[0] * shape->block[1] * shape->block[2];
    counter->instructions += job.instructions;
    counter->load_bytes += job.load_bytes;
    counter->store_bytes += job.store_bytes;
    launch->function->kernel->instructions += job.instructions;
    if (launch->function->kernel->instructions >= SOFT_HOT_INSTRUCTIONS)
        soft_kernel_is_hot(launch->function->kernel);
    soft_ledger_kernel(run->ctx, 1, job.instructions);
    soft_grid_destroy(&job.grid);
    pthread_mutex_destroy(&job.lock);
    return result;
}
