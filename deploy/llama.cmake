# Read by llama-cpp-python's build (CMAKE_PROJECT_llama_cpp_INCLUDE): builds the inference library alone.
# A plain variable here outranks the cache entry that its CMakeLists forces on; "common" serves only
# llama.cpp's own programs, and leaving it and the image code out takes 193 compile steps down to 78.
set(LLAMA_BUILD_COMMON OFF)
set(LLAVA_BUILD OFF)
