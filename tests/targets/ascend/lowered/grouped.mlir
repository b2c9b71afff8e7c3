#map = affine_map<()[s0] -> (s0 + 1)>
#map1 = affine_map<()[s0] -> (s0 * 8192)>
#map2 = affine_map<()[s0, s1] -> (s0 - s1)>
#map3 = affine_map<()[s0] -> (s0 * 128)>
#map4 = affine_map<(d0) -> (d0 ceildiv 16)>
#map5 = affine_map<()[s0] -> (s0 * 64)>
module attributes {dlti.target_system_spec = #dlti.target_system_spec<"NPU" : #hacc.target_device_spec<#dlti.dl_entry<"AI_CORE_COUNT", 32 : i32>, #dlti.dl_entry<"CUBE_CORE_COUNT", 32 : i32>, #dlti.dl_entry<"VECTOR_CORE_COUNT", 64 : i32>, #dlti.dl_entry<"UB_SIZE", 2031616 : i32>, #dlti.dl_entry<"L1_SIZE", 4194304 : i32>, #dlti.dl_entry<"L0A_SIZE", 524288 : i32>, #dlti.dl_entry<"L0B_SIZE", 524288 : i32>, #dlti.dl_entry<"L0C_SIZE", 2097152 : i32>, #dlti.dl_entry<"UB_ALIGN_SIZE", 256 : i32>, #dlti.dl_entry<"L1_ALIGN_SIZE", 256 : i32>, #dlti.dl_entry<"L0C_ALIGN_SIZE", 4096 : i32>, #dlti.dl_entry<"MINIMAL_D_CACHE_SIZE", 262144 : i32>, #dlti.dl_entry<"MAXIMUM_D_CACHE_SIZE", 983040 : i32>, #dlti.dl_entry<"ARCH", "dav-c310">>>, hacc.target = #hacc.target<"Ascend950PR_9589">, hivm.module_core_type = #hivm.module_core_type<AIC>} {
  func.func @grouped(%arg0: memref<?xbf16, #hivm.address_space<gm>>, %arg1: memref<?xbf16, #hivm.address_space<gm>>, %arg2: memref<?xi32, #hivm.address_space<gm>>, %arg3: memref<?xbf16, #hivm.address_space<gm>>, %arg4: i32, %arg5: i32, %arg6: i32) attributes {func_dyn_memref_args = dense<[true, true, true, true, false, false, false]> : vector<7xi1>, hacc.entry, hacc.function_kind = #hacc.function_kind<DEVICE>, hivm.func_core_type = #hivm.func_core_type<AIC>, hivm.vf_mode = #hivm.vf_mode<SIMD>, mix_mode = "mix"} {
    %c0 = arith.constant 0 : index
    %c1_i64 = arith.constant 1 : i64
    %true = arith.constant true
    %c64 = arith.constant 64 : index
    %c128 = arith.constant 128 : index
    %c32 = arith.constant 32 : index
    %c2_i64 = arith.constant 2 : i64
    %c3_i64 = arith.constant 3 : i64
    %c-1_i64 = arith.constant -1 : i64
    %c32768_i64 = arith.constant 32768 : i64
    %c24576_i64 = arith.constant 24576 : i64
    %c0_i64 = arith.constant 0 : i64
    %c8192_i64 = arith.constant 8192 : i64
    %0 = hivm.hir.pointer_cast(%c0_i64) : memref<4x2x16x16xf32, #hivm.address_space<cc>>
    annotation.mark %0 {hivm.multi_buffer = 2 : i32} : memref<4x2x16x16xf32, #hivm.address_space<cc>>
    %1 = hivm.hir.pointer_cast(%c8192_i64) : memref<4x2x16x16xf32, #hivm.address_space<cc>>
    annotation.mark %1 {hivm.multi_buffer = 2 : i32} : memref<4x2x16x16xf32, #hivm.address_space<cc>>
    %2 = hivm.hir.pointer_cast(%c0_i64) : memref<8x2x16x16xbf16, #hivm.address_space<cbuf>>
    annotation.mark %2 {hivm.multi_buffer = 2 : i32} : memref<8x2x16x16xbf16, #hivm.address_space<cbuf>>
    %3 = hivm.hir.pointer_cast(%c24576_i64) : memref<8x2x16x16xbf16, #hivm.address_space<cbuf>>
    annotation.mark %3 {hivm.multi_buffer = 2 : i32} : memref<8x2x16x16xbf16, #hivm.address_space<cbuf>>
    %4 = hivm.hir.pointer_cast(%c8192_i64) : memref<8x4x16x16xbf16, #hivm.address_space<cbuf>>
    annotation.mark %4 {hivm.multi_buffer = 2 : i32} : memref<8x4x16x16xbf16, #hivm.address_space<cbuf>>
    %5 = hivm.hir.pointer_cast(%c32768_i64) : memref<8x4x16x16xbf16, #hivm.address_space<cbuf>>
    annotation.mark %5 {hivm.multi_buffer = 2 : i32} : memref<8x4x16x16xbf16, #hivm.address_space<cbuf>>
    %alloca = memref.alloca() {hivm.multi_buffer_counter_for = 0 : i64} : memref<1xi64>
    memref.store %c0_i64, %alloca[%c0] : memref<1xi64>
    hivm.hir.set_ctrl false at ctrl[60]
    hivm.hir.set_ctrl true at ctrl[48]
    %6 = arith.muli %arg4, %arg5 : i32
    %7 = arith.muli %6, %arg6 : i32
    annotation.mark %7 {logical_block_num} : i32
    %8 = hivm.hir.get_block_idx -> i64
    %9 = arith.trunci %8 : i64 to i32
    %10 = arith.remsi %9, %arg4 : i32
    %11 = arith.index_cast %10 : i32 to index
    %12 = memref.load %arg2[%11] : memref<?xi32, #hivm.address_space<gm>>
    %13 = arith.index_cast %12 : i32 to index
    %14 = affine.apply #map()[%11]
    %15 = memref.load %arg2[%14] : memref<?xi32, #hivm.address_space<gm>>
    %16 = arith.index_cast %15 : i32 to index
    %17 = affine.apply #map1()[%11]
    %reinterpret_cast = memref.reinterpret_cast %arg1 to offset: [%17], sizes: [64, 128], strides: [128, 1] : memref<?xbf16, #hivm.address_space<gm>> to memref<64x128xbf16, strided<[128, 1], offset: ?>, #hivm.address_space<gm>>
    hivm.hir.set_flag[<PIPE_MTE1>, <PIPE_MTE2>, <EVENT_ID0>]
    hivm.hir.set_flag[<PIPE_MTE1>, <PIPE_MTE2>, <EVENT_ID1>]
    hivm.hir.set_flag[<PIPE_MTE1>, <PIPE_MTE2>, <EVENT_ID2>]
    hivm.hir.set_flag[<PIPE_MTE1>, <PIPE_MTE2>, <EVENT_ID3>]
    hivm.hir.set_flag[<PIPE_FIX>, <PIPE_M>, <EVENT_ID0>]
    hivm.hir.set_flag[<PIPE_FIX>, <PIPE_M>, <EVENT_ID1>]
    hivm.hir.set_flag[<PIPE_M>, <PIPE_MTE1>, <EVENT_ID0>]
    hivm.hir.set_flag[<PIPE_M>, <PIPE_MTE1>, <EVENT_ID1>]
    scf.for %arg7 = %13 to %16 step %c32 {
      %18 = memref.load %alloca[%c0] : memref<1xi64>
      %19 = arith.remui %18, %c2_i64 : i64
      %20 = arith.index_cast %19 : i64 to index
      %21 = arith.cmpi eq, %19, %c1_i64 : i64
      %22 = arith.select %21, %1, %0 : memref<4x2x16x16xf32, #hivm.address_space<cc>>
      %23 = arith.select %21, %3, %2 : memref<8x2x16x16xbf16, #hivm.address_space<cbuf>>
      %24 = arith.select %21, %5, %4 : memref<8x4x16x16xbf16, #hivm.address_space<cbuf>>
      %25 = arith.index_cast %20 : index to i1
      %26 = arith.select %25, %c2_i64, %c3_i64 : i64
      %27 = arith.xori %25, %true : i1
      %28 = arith.extui %27 : i1 to i64
      %29 = affine.apply #map2()[%16, %arg7]
      %30 = arith.minsi %29, %c32 : index
      %31 = affine.apply #map3()[%arg7]
      %reinterpret_cast_0 = memref.reinterpret_cast %arg0 to offset: [%31], sizes: [32, 128], strides: [128, 1] : memref<?xbf16, #hivm.address_space<gm>> to memref<32x128xbf16, strided<[128, 1], offset: ?>, #hivm.address_space<gm>>
      %subview = memref.subview %reinterpret_cast_0[0, 0] [%30, 128] [1, 1] : memref<32x128xbf16, strided<[128, 1], offset: ?>, #hivm.address_space<gm>> to memref<?x128xbf16, strided<[128, 1], offset: ?>, #hivm.address_space<gm>>
      %32 = affine.apply #map4(%30)
      %subview_1 = memref.subview %23[0, 0, 0, 0] [8, %32, 16, 16] [1, 1, 1, 1] : memref<8x2x16x16xbf16, #hivm.address_space<cbuf>> to memref<8x?x16x16xbf16, strided<[512, 256, 16, 1]>, #hivm.address_space<cbuf>>
      hivm.hir.wait_flag[<PIPE_MTE1>, <PIPE_MTE2>, %28]
      hivm.hir.nd2nz {dst_continuous} ins(%subview : memref<?x128xbf16, strided<[128, 1], offset: ?>, #hivm.address_space<gm>>) outs(%subview_1 : memref<8x?x16x16xbf16, strided<[512, 256, 16, 1]>, #hivm.address_space<cbuf>>)
      hivm.hir.set_flag[<PIPE_MTE2>, <PIPE_MTE1>, <EVENT_ID0>]
      hivm.hir.wait_flag[<PIPE_MTE1>, <PIPE_MTE2>, %26]
      hivm.hir.nd2nz {dst_continuous} ins(%reinterpret_cast : memref<64x128xbf16, strided<[128, 1], offset: ?>, #hivm.address_space<gm>>) outs(%24 : memref<8x4x16x16xbf16, #hivm.address_space<cbuf>>)
      hivm.hir.set_flag[<PIPE_MTE2>, <PIPE_MTE1>, <EVENT_ID1>]
      hivm.hir.wait_flag[<PIPE_FIX>, <PIPE_M>, %28]
      hivm.hir.mmadL1 {already_set_real_mkn, b_transpose, fixpipe_for_result_already_inserted = true, normalized_in_L0C} ins(%23, %24, %true, %c32, %c128, %c64 : memref<8x2x16x16xbf16, #hivm.address_space<cbuf>>, memref<8x4x16x16xbf16, #hivm.address_space<cbuf>>, i1, index, index, index) outs(%22 : memref<4x2x16x16xf32, #hivm.address_space<cc>>) sync_related_args(%c0_i64, %c1_i64, %28, %26, %c-1_i64, %c-1_i64, %c-1_i64 : i64, i64, i64, i64, i64, i64, i64)
      hivm.hir.set_flag[<PIPE_M>, <PIPE_FIX>, <EVENT_ID0>]
      %33 = affine.apply #map5()[%arg7]
      %reinterpret_cast_2 = memref.reinterpret_cast %arg3 to offset: [%33], sizes: [32, 64], strides: [64, 1] : memref<?xbf16, #hivm.address_space<gm>> to memref<32x64xbf16, strided<[64, 1], offset: ?>, #hivm.address_space<gm>>
      %subview_3 = memref.subview %22[0, 0, 0, 0] [4, %32, 16, 16] [1, 1, 1, 1] : memref<4x2x16x16xf32, #hivm.address_space<cc>> to memref<4x?x16x16xf32, strided<[512, 256, 16, 1]>, #hivm.address_space<cc>>
      %subview_4 = memref.subview %reinterpret_cast_2[0, 0] [%30, 64] [1, 1] : memref<32x64xbf16, strided<[64, 1], offset: ?>, #hivm.address_space<gm>> to memref<?x64xbf16, strided<[64, 1], offset: ?>, #hivm.address_space<gm>>
      hivm.hir.wait_flag[<PIPE_M>, <PIPE_FIX>, <EVENT_ID0>]
      hivm.hir.pipe_barrier[<PIPE_FIX>]
      hivm.hir.fixpipe {dma_mode = #hivm.dma_mode<nz2nd>, pre_quant = #hivm.fixpipe_pre_quant_mode<F322BF16>} ins(%subview_3 : memref<4x?x16x16xf32, strided<[512, 256, 16, 1]>, #hivm.address_space<cc>>) outs(%subview_4 : memref<?x64xbf16, strided<[64, 1], offset: ?>, #hivm.address_space<gm>>)
      hivm.hir.set_flag[<PIPE_FIX>, <PIPE_M>, %28]
      %34 = arith.addi %18, %c1_i64 : i64
      memref.store %34, %alloca[%c0] : memref<1xi64>
    } {fixpipe_for_mmad_result_already_inserted = true, hivm.multi_buffer_loop_id = 0 : i64}
    hivm.hir.wait_flag[<PIPE_M>, <PIPE_MTE1>, <EVENT_ID0>]
    hivm.hir.wait_flag[<PIPE_M>, <PIPE_MTE1>, <EVENT_ID1>]
    hivm.hir.wait_flag[<PIPE_FIX>, <PIPE_M>, <EVENT_ID0>]
    hivm.hir.wait_flag[<PIPE_FIX>, <PIPE_M>, <EVENT_ID1>]
    hivm.hir.wait_flag[<PIPE_MTE1>, <PIPE_MTE2>, <EVENT_ID0>]
    hivm.hir.wait_flag[<PIPE_MTE1>, <PIPE_MTE2>, <EVENT_ID1>]
    hivm.hir.wait_flag[<PIPE_MTE1>, <PIPE_MTE2>, <EVENT_ID2>]
    hivm.hir.wait_flag[<PIPE_MTE1>, <PIPE_MTE2>, <EVENT_ID3>]
    hivm.hir.set_ctrl true at ctrl[60]
    hivm.hir.pipe_barrier[<PIPE_ALL>]
    return
  }
}
