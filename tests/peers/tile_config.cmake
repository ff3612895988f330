# GCC before 13 tells itself that loading a tile configuration reads 8 of its 64 bytes, and drops the stores to the
# others; then the instruction faults, and llama.cpp ends with it on processors with AMX. The stores stay without this
# optimization, in the one file that has such a configuration.
cmake_language(DEFER DIRECTORY ${CMAKE_SOURCE_DIR} CALL set_source_files_properties
    ${CMAKE_SOURCE_DIR}/ggml/src/ggml-cpu/amx/mmq.cpp TARGET_DIRECTORY ggml-cpu
    PROPERTIES COMPILE_OPTIONS "-fno-tree-dse;-fno-dse")
