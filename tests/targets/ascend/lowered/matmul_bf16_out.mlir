#map = affine_map<()[s0, s1] -> (s0 + s1 * 8192)>
#map1 = affine_map<()[s0, s1] -> (s0 * 96 + s1 * 48)>
#map2 = affine_map<()[s0, s1] -> (s0 * 3072 + s1 * 48)>
module attributes {dlti.target_system_spec = #dlti.target_system_spec<"NPU" : #hacc.target_device_spec<#dlti.dl_entry<"AI_CORE_COUNT", 32 : i32>, #dlti.dl_entry<"CUBE_CORE_COUNT", 32 : i32>, #dlti.dl_entry<"VECTOR_CORE_COUNT", 64 : i32>, #dlti.dl_entry<"UB_SIZE", 2031616 : i32>, #dlti.dl_entry<"L1_SIZE", 4194304 : i32>, #dlti.dl_entry<"L0A_SIZE", 524288 : i32>, #dlti.dl_entry<"L0B_SIZE", 524288 : i32>, #dlti.dl_entry<"L0C_SIZE", 2097152 : i32>, #dlti.dl_entry<"UB_ALIGN_SIZE", 256 : i32>, #dlti.dl_entry<"L1_ALIGN_SIZE", 256 : i32>, #dlti.dl_entry<"L0C_ALIGN_SIZE", 4096 : i32>, #dlti.dl_entry<"MINIMAL_D_CACHE_SIZE", 262144 : i32>, #dlti.dl_entry<"MAXIMUM_D_CACHE_SIZE", 983040 : i32>, #dlti.dl_entry<"ARCH", "dav-c310">>>, hacc.target = #hacc.target<"Ascend950PR_9589">, hivm.module_core_type = #hivm.module_core_type<AIC>} {
  func.func @matmul(%arg0: memref<?xbf16, #hivm.address_space<gm>>, %arg1: memref<?xbf16, #hivm.address_space<gm>>, %arg2: memref<?xbf16, #hivm.address_space<gm>>, %arg3: i32, %arg4: i32, %arg5: i32) attributes {func_dyn_memref_args = dense<[true, true, true, false, false, false]> : vector<6xi1>, hacc.entry, hacc.function_kind = #hacc.function_kind<DEVICE>, hivm.func_core_type = #hivm.func_core_type<AIC>, hivm.vf_mode = #hivm.vf_mode<SIMD>, mix_mode = "mix"} {
    %true = arith.constant true
    %c0 = arith.constant 0 : index
    %c1_i64 = arith.constant 1 : i64
    %c1_i32 = arith.constant 1 : i32
    %c0_i32 = arith.constant 0 : i32
    %c32 = arith.constant 32 : index
    %c64 = arith.constant 64 : index
    %c256 = arith.constant 256 : index
    %c48 = arith.constant 48 : index
    %c2_i64 = arith.constant 2 : i64
    %c3_i64 = arith.constant 3 : i64
    %c-1_i64 = arith.constant -1 : i64
    %c14336_i64 = arith.constant 14336 : i64
    %c4096_i64 = arith.constant 4096 : i64
    %c0_i64 = arith.constant 0 : i64
    %c10240_i64 = arith.constant 10240 : i64
    %0 = hivm.hir.pointer_cast(%c0_i64) : memref<4x2x16x16xbf16, #hivm.address_space<cbuf>>
    annotation.mark %0 {hivm.multi_buffer = 2 : i32} : memref<4x2x16x16xbf16, #hivm.address_space<cbuf>>
    %1 = hivm.hir.pointer_cast(%c10240_i64) : memref<4x2x16x16xbf16, #hivm.address_space<cbuf>>
    annotation.mark %1 {hivm.multi_buffer = 2 : i32} : memref<4x2x16x16xbf16, #hivm.address_space<cbuf>>
    %2 = hivm.hir.pointer_cast(%c4096_i64) : memref<3x4x16x16xbf16, #hivm.address_space<cbuf>>
    annotation.mark %2 {hivm.multi_buffer = 2 : i32} : memref<3x4x16x16xbf16, #hivm.address_space<cbuf>>
    %3 = hivm.hir.pointer_cast(%c14336_i64) : memref<3x4x16x16xbf16, #hivm.address_space<cbuf>>
    annotation.mark %3 {hivm.multi_buffer = 2 : i32} : memref<3x4x16x16xbf16, #hivm.address_space<cbuf>>
    %alloca = memref.alloca() {hivm.multi_buffer_counter_for = 0 : i64} : memref<1xi64>
    memref.store %c0_i64, %alloca[%c0] : memref<1xi64>
    hivm.hir.set_ctrl false at ctrl[60]
    hivm.hir.set_ctrl true at ctrl[48]
    %4 = arith.muli %arg3, %arg4 : i32
    %5 = arith.muli %4, %arg5 : i32
    annotation.mark %5 {logical_block_num} : i32
    %6 = hivm.hir.get_block_idx -> i64
    %7 = arith.trunci %6 : i64 to i32
    %8 = arith.remsi %7, %arg3 : i32
    %9 = arith.divsi %7, %arg3 : i32
    %10 = arith.remsi %9, %arg4 : i32
    %11 = arith.index_cast %8 : i32 to index
    %12 = arith.index_cast %10 : i32 to index
    %alloca_0 = memref.alloca() {normalize_matmul_counter} : memref<i32>
    memref.store %c0_i32, %alloca_0[] : memref<i32>
    %13 = hivm.hir.pointer_cast(%c0_i64) : memref<3x2x16x16xf32, #hivm.address_space<cc>>
    hivm.hir.set_flag[<PIPE_MTE1>, <PIPE_MTE2>, <EVENT_ID0>]
    hivm.hir.set_flag[<PIPE_MTE1>, <PIPE_MTE2>, <EVENT_ID1>]
    hivm.hir.set_flag[<PIPE_MTE1>, <PIPE_MTE2>, <EVENT_ID2>]
    hivm.hir.set_flag[<PIPE_MTE1>, <PIPE_MTE2>, <EVENT_ID3>]
    hivm.hir.set_flag[<PIPE_M>, <PIPE_MTE1>, <EVENT_ID0>]
    hivm.hir.set_flag[<PIPE_M>, <PIPE_MTE1>, <EVENT_ID1>]
    scf.for %arg6 = %c0 to %c256 step %c64 {
      %15 = memref.load %alloca[%c0] : memref<1xi64>
      %16 = arith.remui %15, %c2_i64 : i64
      %17 = arith.index_cast %16 : i64 to index
      %18 = arith.cmpi eq, %16, %c1_i64 : i64
      %19 = arith.select %18, %1, %0 : memref<4x2x16x16xbf16, #hivm.address_space<cbuf>>
      %20 = arith.select %18, %3, %2 : memref<3x4x16x16xbf16, #hivm.address_space<cbuf>>
      %21 = arith.index_cast %17 : index to i1
      %22 = arith.select %21, %c2_i64, %c3_i64 : i64
      %23 = arith.xori %21, %true : i1
      %24 = arith.extui %23 : i1 to i64
      %25 = affine.apply #map()[%arg6, %11]
      %reinterpret_cast_1 = memref.reinterpret_cast %arg0 to offset: [%25], sizes: [32, 64], strides: [256, 1] : memref<?xbf16, #hivm.address_space<gm>> to memref<32x64xbf16, strided<[256, 1], offset: ?>, #hivm.address_space<gm>>
      hivm.hir.wait_flag[<PIPE_MTE1>, <PIPE_MTE2>, %24]
      hivm.hir.nd2nz {dst_continuous} ins(%reinterpret_cast_1 : memref<32x64xbf16, strided<[256, 1], offset: ?>, #hivm.address_space<gm>>) outs(%19 : memref<4x2x16x16xbf16, #hivm.address_space<cbuf>>)
      hivm.hir.set_flag[<PIPE_MTE2>, <PIPE_MTE1>, <EVENT_ID0>]
      %26 = affine.apply #map1()[%arg6, %12]
      %reinterpret_cast_2 = memref.reinterpret_cast %arg1 to offset: [%26], sizes: [64, 48], strides: [96, 1] : memref<?xbf16, #hivm.address_space<gm>> to memref<64x48xbf16, strided<[96, 1], offset: ?>, #hivm.address_space<gm>>
      hivm.hir.wait_flag[<PIPE_MTE1>, <PIPE_MTE2>, %22]
      hivm.hir.nd2nz {dst_continuous} ins(%reinterpret_cast_2 : memref<64x48xbf16, strided<[96, 1], offset: ?>, #hivm.address_space<gm>>) outs(%20 : memref<3x4x16x16xbf16, #hivm.address_space<cbuf>>)
      hivm.hir.set_flag[<PIPE_MTE2>, <PIPE_MTE1>, <EVENT_ID1>]
      %27 = memref.load %alloca_0[] : memref<i32>
      %28 = arith.cmpi eq, %27, %c0_i32 : i32
      hivm.hir.mmadL1 {already_set_real_mkn, fixpipe_for_result_already_inserted = true, hivm.remain_in_l0c, normalized_in_L0C} ins(%19, %20, %28, %c32, %c64, %c48 : memref<4x2x16x16xbf16, #hivm.address_space<cbuf>>, memref<3x4x16x16xbf16, #hivm.address_space<cbuf>>, i1, index, index, index) outs(%13 : memref<3x2x16x16xf32, #hivm.address_space<cc>>) sync_related_args(%c0_i64, %c1_i64, %24, %22, %c-1_i64, %c-1_i64, %c-1_i64 : i64, i64, i64, i64, i64, i64, i64)
      %29 = arith.addi %27, %c1_i32 : i32
      memref.store %29, %alloca_0[] : memref<i32>
      %30 = arith.addi %15, %c1_i64 : i64
      memref.store %30, %alloca[%c0] : memref<1xi64>
    } {fixpipe_for_mmad_result_already_inserted = true, hivm.multi_buffer_loop_id = 0 : i64}
    hivm.hir.wait_flag[<PIPE_M>, <PIPE_MTE1>, <EVENT_ID0>]
    hivm.hir.wait_flag[<PIPE_M>, <PIPE_MTE1>, <EVENT_ID1>]
    hivm.hir.wait_flag[<PIPE_MTE1>, <PIPE_MTE2>, <EVENT_ID0>]
    hivm.hir.wait_flag[<PIPE_MTE1>, <PIPE_MTE2>, <EVENT_ID1>]
    hivm.hir.wait_flag[<PIPE_MTE1>, <PIPE_MTE2>, <EVENT_ID2>]
    hivm.hir.wait_flag[<PIPE_MTE1>, <PIPE_MTE2>, <EVENT_ID3>]
    hivm.hir.set_flag[<PIPE_M>, <PIPE_FIX>, <EVENT_ID0>]
    %14 = affine.apply #map2()[%11, %12]
    %reinterpret_cast = memref.reinterpret_cast %arg2 to offset: [%14], sizes: [32, 48], strides: [96, 1] : memref<?xbf16, #hivm.address_space<gm>> to memref<32x48xbf16, strided<[96, 1], offset: ?>, #hivm.address_space<gm>>
    hivm.hir.wait_flag[<PIPE_M>, <PIPE_FIX>, <EVENT_ID0>]
    hivm.hir.fixpipe {dma_mode = #hivm.dma_mode<nz2nd>, pre_quant = #hivm.fixpipe_pre_quant_mode<F322BF16>} ins(%13 : memref<3x2x16x16xf32, #hivm.address_space<cc>>) outs(%reinterpret_cast : memref<32x48xbf16, strided<[96, 1], offset: ?>, #hivm.address_space<gm>>)
    hivm.hir.set_ctrl true at ctrl[60]
    hivm.hir.pipe_barrier[<PIPE_ALL>]
    return
  }
}
