# Read by CMake inside llama.cpp's own project.

# The helper library of its command-line tools, which the Python package builds without offering a
# switch, is a quarter of the compilation and never loaded.
set(LLAMA_BUILD_COMMON OFF)

# GCC before 14 may say that ldtilecfg reads 8 bytes where it reads 64, and drops the stores of the
# rest: the first large matrix product on a processor with AMX ends the process.
if (CMAKE_C_COMPILER_ID STREQUAL "GNU" AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64"
        AND CMAKE_C_COMPILER_VERSION VERSION_LESS 14 AND CMAKE_C_COMPILER_VERSION VERSION_GREATER_EQUAL 11)
    add_compile_options(-mno-amx-tile -mno-amx-int8 -mno-amx-bf16)
endif()
