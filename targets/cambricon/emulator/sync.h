// Waiting: within a core for its queues, and for other cores.
#pragma once
#include "calls.h"

inline void __sync(BANG_AT) { bang::sync("__sync", bang::ALL_BITS, bang::ALL_BITS, at); }
inline void __sync_io(BANG_AT) { bang::sync("__sync_io", bang::IO_BIT, bang::ALL_BITS, at); }
inline void __sync_move(BANG_AT) { bang::sync("__sync_move", bang::MOVE_BIT, bang::ALL_BITS, at); }
inline void __sync_compute(BANG_AT) {
    bang::sync("__sync_compute", bang::COMPUTE_BIT, bang::ALL_BITS, at);
}
inline void __sync_io_move_compute(bool io_before = true, bool move_before = true,
                                   bool compute_before = true, bool io_after = true,
                                   bool move_after = true, bool compute_after = true, BANG_AT) {
    bang::sync("__sync_io_move_compute", io_before | move_before << 1 | compute_before << 2,
               io_after | move_after << 1 | compute_after << 2, at);
}
inline void __sync_cluster(BANG_AT) { bang::barrier("__sync_cluster", bang::Gate::CLUSTER, at); }
inline void __sync_all(BANG_AT) { bang::barrier("__sync_all", bang::Gate::ALL, at); }
inline void __sync_all_ipu(BANG_AT) { bang::barrier("__sync_all_ipu", bang::Gate::ALL_IPU, at); }
inline void __sync_all_mpu(BANG_AT) { bang::barrier("__sync_all_mpu", bang::Gate::ALL_MPU, at); }
inline void __sync_all_ipu_within_cluster(BANG_AT) {
    bang::barrier("__sync_all_ipu_within_cluster", bang::Gate::CLUSTER_IPU, at);
}
