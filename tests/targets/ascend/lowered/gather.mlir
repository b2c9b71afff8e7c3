#map = affine_map<()[s0, s1] -> (s0 + s1 * 8)>
#map1 = affine_map<()[s0] -> (s0 * 256)>
#map2 = affine_map<()[s0] -> (s0 * 2048)>
module attributes {dlti.target_system_spec = #dlti.target_system_spec<"NPU" : #hacc.target_device_spec<#dlti.dl_entry<"AI_CORE_COUNT", 32 : i32>, #dlti.dl_entry<"CUBE_CORE_COUNT", 32 : i32>, #dlti.dl_entry<"VECTOR_CORE_COUNT", 64 : i32>, #dlti.dl_entry<"UB_SIZE", 2031616 : i32>, #dlti.dl_entry<"L1_SIZE", 4194304 : i32>, #dlti.dl_entry<"L0A_SIZE", 524288 : i32>, #dlti.dl_entry<"L0B_SIZE", 524288 : i32>, #dlti.dl_entry<"L0C_SIZE", 2097152 : i32>, #dlti.dl_entry<"UB_ALIGN_SIZE", 256 : i32>, #dlti.dl_entry<"L1_ALIGN_SIZE", 256 : i32>, #dlti.dl_entry<"L0C_ALIGN_SIZE", 4096 : i32>, #dlti.dl_entry<"MINIMAL_D_CACHE_SIZE", 262144 : i32>, #dlti.dl_entry<"MAXIMUM_D_CACHE_SIZE", 983040 : i32>, #dlti.dl_entry<"ARCH", "dav-c310">>>, hacc.target = #hacc.target<"Ascend950PR_9589">, hivm.module_core_type = #hivm.module_core_type<AIV>} {
  func.func @gather(%arg0: memref<?xbf16, #hivm.address_space<gm>>, %arg1: memref<?xi32, #hivm.address_space<gm>>, %arg2: memref<?xbf16, #hivm.address_space<gm>>, %arg3: i32, %arg4: i32, %arg5: i32) attributes {func_dyn_memref_args = dense<[true, true, true, false, false, false]> : vector<6xi1>, hacc.entry, hacc.function_kind = #hacc.function_kind<DEVICE>, hivm.func_core_type = #hivm.func_core_type<AIV>, hivm.vf_mode = #hivm.vf_mode<SIMD>} {
    %c0_i64 = arith.constant 0 : i64
    %c1 = arith.constant 1 : index
    %c8 = arith.constant 8 : index
    %c0 = arith.constant 0 : index
    %c16 = arith.constant 16 : index
    hivm.hir.set_ctrl false at ctrl[60]
    hivm.hir.set_ctrl true at ctrl[48]
    %0 = arith.muli %arg3, %arg4 : i32
    %1 = arith.muli %0, %arg5 : i32
    annotation.mark %1 {logical_block_num} : i32
    %2 = hivm.hir.get_block_idx -> i64
    %3 = arith.trunci %2 : i64 to i32
    %4 = arith.remsi %3, %arg3 : i32
    %5 = arith.index_cast %4 : i32 to index
    %6 = hivm.hir.pointer_cast(%c0_i64) : memref<2048xbf16, #hivm.address_space<ub>>
    scf.for %arg6 = %c0 to %c8 step %c1 {
      %8 = affine.apply #map()[%arg6, %5]
      %9 = memref.load %arg1[%8] : memref<?xi32, #hivm.address_space<gm>>
      %10 = arith.index_cast %9 : i32 to index
      %11 = affine.apply #map1()[%10]
      %reinterpret_cast_0 = memref.reinterpret_cast %arg0 to offset: [%11], sizes: [1, 256], strides: [256, 1] : memref<?xbf16, #hivm.address_space<gm>> to memref<1x256xbf16, strided<[256, 1], offset: ?>, #hivm.address_space<gm>>
      %collapse_shape_1 = memref.collapse_shape %reinterpret_cast_0 [[0, 1]] : memref<1x256xbf16, strided<[256, 1], offset: ?>, #hivm.address_space<gm>> into memref<256xbf16, strided<[1], offset: ?>, #hivm.address_space<gm>>
      %12 = affine.apply #map1()[%arg6]
      %subview = memref.subview %6[%12] [256] [1] : memref<2048xbf16, #hivm.address_space<ub>> to memref<256xbf16, strided<[1], offset: ?>, #hivm.address_space<ub>>
      %13 = arith.remui %12, %c16 : index
      hivm.hir.pipe_barrier[<PIPE_MTE2>]
      hivm.hir.load ins(%collapse_shape_1 : memref<256xbf16, strided<[1], offset: ?>, #hivm.address_space<gm>>) outs(%subview : memref<256xbf16, strided<[1], offset: ?>, #hivm.address_space<ub>>) left_padding_num = %13 : index eviction_policy = <EvictFirst> core_type = <VECTOR>
    }
    hivm.hir.set_flag[<PIPE_MTE2>, <PIPE_MTE3>, <EVENT_ID0>]
    %7 = affine.apply #map2()[%5]
    %reinterpret_cast = memref.reinterpret_cast %arg2 to offset: [%7], sizes: [8, 256], strides: [256, 1] : memref<?xbf16, #hivm.address_space<gm>> to memref<8x256xbf16, strided<[256, 1], offset: ?>, #hivm.address_space<gm>>
    %collapse_shape = memref.collapse_shape %reinterpret_cast [[0, 1]] : memref<8x256xbf16, strided<[256, 1], offset: ?>, #hivm.address_space<gm>> into memref<2048xbf16, strided<[1], offset: ?>, #hivm.address_space<gm>>
    hivm.hir.wait_flag[<PIPE_MTE2>, <PIPE_MTE3>, <EVENT_ID0>]
    hivm.hir.store ins(%6 : memref<2048xbf16, #hivm.address_space<ub>>) outs(%collapse_shape : memref<2048xbf16, strided<[1], offset: ?>, #hivm.address_space<gm>>)
    hivm.hir.set_ctrl true at ctrl[60]
    hivm.hir.pipe_barrier[<PIPE_ALL>]
    return
  }
}
