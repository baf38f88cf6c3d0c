# Every source in kernels/cpu is compiled once per instruction set, into a namespace of its own.
# select.cpp (baseline) picks a table at start.
file(GLOB HONE_CPU_KERNELS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/kernels/cpu/*.cpp)

# The baseline's vectors are sixteen scalars each: optimising them takes minutes a file, for the
# slowest of all sets, which CPUs of the last ten years do not take. Sanitizers make kernels as
# large, so the baseline, the same sources as the other sets, goes without them.
set(HONE_KERNEL_OPTIMISATION -O3)
set(HONE_BASELINE_OPTIMISATION -O1)
if(HONE_SANITIZE)
  set(HONE_KERNEL_OPTIMISATION -O1)
  set(HONE_BASELINE_OPTIMISATION -O0 -fno-sanitize=all)
endif()

# The objects of one instruction set.
function(hone_isa_objects name rank)
  add_library(hone_kernels_${name} OBJECT ${HONE_CPU_KERNELS})
  target_include_directories(hone_kernels_${name} PRIVATE ${CMAKE_SOURCE_DIR}/src)
  target_compile_definitions(hone_kernels_${name} PRIVATE HONE_ISA=${name} HONE_ISA_RANK=${rank})
  target_compile_options(hone_kernels_${name} PRIVATE ${HONE_KERNEL_OPTIMISATION} -fno-exceptions -fno-rtti
                         # GCC 12 reports its own AVX-512 header (a deliberate self-initialisation).
                         -Wno-maybe-uninitialized -Wno-uninitialized ${ARGN})
endfunction()

function(hone_isa name rank)
  hone_isa_objects(${name} ${rank} ${ARGN})
  target_sources(hone_kernels PRIVATE $<TARGET_OBJECTS:hone_kernels_${name}>)
  set(HONE_ISAS ${HONE_ISAS} ${name} PARENT_SCOPE)
endfunction()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND HONE_SANITIZE MATCHES "thread")
  # Threads are above the kernels: one set shows what they do.
  hone_isa(avx2 2 -mavx2 -mfma -mf16c)
  hone_isa(baseline 0 ${HONE_BASELINE_OPTIMISATION})
  target_compile_definitions(hone_kernels PRIVATE HONE_X86=1)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  hone_isa(baseline 0 ${HONE_BASELINE_OPTIMISATION})
  set(AVX2 -mavx2 -mfma -mf16c)
  set(AVX512 ${AVX2} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512)
  hone_isa(avx2 2 ${AVX2})
  if(NOT HONE_SANITIZE)  # avx512_vnni has the same functions and more
    hone_isa(avx512 3 ${AVX512})
    target_compile_definitions(hone_kernels PRIVATE HONE_AVX512_ALONE=1)
  endif()
  set(VNNI ${AVX512} -mavx512vnni)
  hone_isa(avx512_vnni 4 ${VNNI})
  if(NOT HONE_SANITIZE)  # amx_emulated, below, is the same sources
    # Ranked below avx512_vnni: runs only where it was measured to be faster, or is asked for.
    hone_isa(avx512_amx 1 ${VNNI} -mamx-tile -mamx-int8 -mamx-bf16)
    target_compile_definitions(hone_kernels PRIVATE HONE_AMX=1)
  endif()
  if(HONE_TESTS)
    # For tests on CPUs without tiles: the same code on tiles in plain loops.
    hone_isa_objects(amx_emulated 0 ${VNNI} -DHONE_PLAIN_TILES=1)
  endif()
  target_compile_definitions(hone_kernels PRIVATE HONE_X86=1 HONE_AVX512=1)
else()
  hone_isa(baseline 0)
endif()
target_sources(hone_kernels PRIVATE ${CMAKE_SOURCE_DIR}/src/kernels/ref/ref.cpp
                                    ${CMAKE_SOURCE_DIR}/src/kernels/ref/optimizer.cpp
                                    ${CMAKE_SOURCE_DIR}/src/kernels/ref/linear_attention.cpp)
