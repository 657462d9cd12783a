# Read by CMake inside llama.cpp's own project: the helper library of its command-line tools, which the
# Python package builds without offering a switch, is a quarter of the compilation and never loaded.
set(LLAMA_BUILD_COMMON OFF)
