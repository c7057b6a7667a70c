// Classifies one 28x28 image with model_int8.tflite, in C++ with LiteRT (TensorFlow Lite's name since 2024).
//
//     ./classify model_int8.tflite < image.raw        784 bytes: 0 is the background, 255 the pen
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

// What this program uses of LiteRT's C API, as LiteRT 2.3 exports it. With LiteRT's own headers at hand, include
// litert/c/litert_environment.h, litert_model.h, litert_options.h, litert_compiled_model.h, litert_tensor_buffer.h and
// litert_tensor_buffer_requirements.h in its place.
extern "C" {
typedef struct LiteRtEnvironmentT *LiteRtEnvironment;
typedef struct LiteRtModelT *LiteRtModel;
typedef struct LiteRtSubgraphT *LiteRtSubgraph;
typedef struct LiteRtTensorT *LiteRtTensor;
typedef struct LiteRtOptionsT *LiteRtOptions;
typedef struct LiteRtCompiledModelT *LiteRtCompiledModel;
typedef struct LiteRtTensorBufferT *LiteRtTensorBuffer;
typedef struct LiteRtTensorBufferRequirementsT *LiteRtTensorBufferRequirements;
// Element type, rank, dimensions and strides. It is only passed on here, so its fields do not matter, but it must fit.
struct alignas(16) LiteRtRankedTensorType {
    char content[256];
};

int LiteRtCreateEnvironment(int count, const void *options, LiteRtEnvironment *environment);
int LiteRtCreateModelFromFile(LiteRtEnvironment environment, const char *file, LiteRtModel *model);
int LiteRtGetModelSubgraph(LiteRtModel model, size_t index, LiteRtSubgraph *subgraph);
int LiteRtGetSubgraphInput(LiteRtSubgraph subgraph, size_t index, LiteRtTensor *tensor);
int LiteRtGetSubgraphOutput(LiteRtSubgraph subgraph, size_t index, LiteRtTensor *tensor);
int LiteRtGetRankedTensorType(LiteRtTensor tensor, LiteRtRankedTensorType *type);
int LiteRtCreateOptions(LiteRtOptions *options);
int LiteRtSetOptionsHardwareAccelerators(LiteRtOptions options, int accelerators);
int LiteRtCreateCompiledModel(LiteRtEnvironment, LiteRtModel, LiteRtOptions, LiteRtCompiledModel *);
int LiteRtGetCompiledModelInputBufferRequirements(LiteRtCompiledModel, size_t signature, size_t index,
                                                  LiteRtTensorBufferRequirements *);
int LiteRtGetCompiledModelOutputBufferRequirements(LiteRtCompiledModel, size_t signature, size_t index,
                                                   LiteRtTensorBufferRequirements *);
int LiteRtCreateManagedTensorBufferFromRequirements(LiteRtEnvironment, const LiteRtRankedTensorType *,
                                                    LiteRtTensorBufferRequirements, LiteRtTensorBuffer *);
int LiteRtGetTensorBufferPackedSize(LiteRtTensorBuffer buffer, size_t *size);
int LiteRtLockTensorBuffer(LiteRtTensorBuffer buffer, void **memory, int mode);
int LiteRtUnlockTensorBuffer(LiteRtTensorBuffer buffer);
int LiteRtRunCompiledModel(LiteRtCompiledModel, size_t signature, size_t inputs, LiteRtTensorBuffer *, size_t outputs,
                           LiteRtTensorBuffer *);
void LiteRtDestroyTensorBuffer(LiteRtTensorBuffer);
void LiteRtDestroyCompiledModel(LiteRtCompiledModel);
void LiteRtDestroyOptions(LiteRtOptions);
void LiteRtDestroyModel(LiteRtModel);
void LiteRtDestroyEnvironment(LiteRtEnvironment);
}

constexpr int kCpu = 1, kRead = 0, kWrite = 1;
constexpr size_t kPixels = 28 * 28, kClasses = 10;

static void check(int status, const char *what) {
    if (status == 0) return;
    std::fprintf(stderr, "classify: %s: LiteRT's status is %d\n", what, status);
    std::exit(1);
}

int main(int count, char **arguments) {
    uint8_t pixels[kPixels];
    if (count != 2) return std::fprintf(stderr, "usage: classify model_int8.tflite < image.raw\n"), 2;
    if (std::fread(pixels, 1, kPixels, stdin) != kPixels)
        return std::fprintf(stderr, "classify: expected 784 bytes on standard input\n"), 1;

    LiteRtEnvironment environment;
    LiteRtModel model;
    LiteRtOptions options;
    LiteRtCompiledModel compiled;
    check(LiteRtCreateEnvironment(0, nullptr, &environment), "environment");
    check(LiteRtCreateModelFromFile(environment, arguments[1], &model), arguments[1]);
    check(LiteRtCreateOptions(&options), "options");
    check(LiteRtSetOptionsHardwareAccelerators(options, kCpu), "options");
    check(LiteRtCreateCompiledModel(environment, model, options, &compiled), arguments[1]);

    LiteRtSubgraph graph;
    LiteRtTensor tensor;
    LiteRtRankedTensorType type;
    LiteRtTensorBufferRequirements requirements;
    LiteRtTensorBuffer input, output;
    check(LiteRtGetModelSubgraph(model, 0, &graph), "graph");
    check(LiteRtGetSubgraphInput(graph, 0, &tensor), "input");
    check(LiteRtGetRankedTensorType(tensor, &type), "input");
    check(LiteRtGetCompiledModelInputBufferRequirements(compiled, 0, 0, &requirements), "input");
    check(LiteRtCreateManagedTensorBufferFromRequirements(environment, &type, requirements, &input), "input");
    check(LiteRtGetSubgraphOutput(graph, 0, &tensor), "output");
    check(LiteRtGetRankedTensorType(tensor, &type), "output");
    check(LiteRtGetCompiledModelOutputBufferRequirements(compiled, 0, 0, &requirements), "output");
    check(LiteRtCreateManagedTensorBufferFromRequirements(environment, &type, requirements, &output), "output");

    size_t input_size, output_size;
    check(LiteRtGetTensorBufferPackedSize(input, &input_size), "input");
    check(LiteRtGetTensorBufferPackedSize(output, &output_size), "output");
    if (input_size != kPixels || output_size != kClasses) check(-1, "expected int8 (1, 28, 28, 1) and int8 (1, 10)");

    void *memory;
    check(LiteRtLockTensorBuffer(input, &memory, kWrite), "input");
    for (size_t i = 0; i < kPixels; ++i) static_cast<uint8_t *>(memory)[i] = pixels[i] ^ 0x80;  // int8: pixel - 128
    check(LiteRtUnlockTensorBuffer(input), "input");
    check(LiteRtRunCompiledModel(compiled, 0, 1, &input, 1, &output), "run");

    int8_t logits[kClasses];
    check(LiteRtLockTensorBuffer(output, &memory, kRead), "output");
    std::memcpy(logits, memory, sizeof logits);
    check(LiteRtUnlockTensorBuffer(output), "output");

    size_t best = 0;
    for (size_t i = 1; i < kClasses; ++i)
        if (logits[i] > logits[best]) best = i;
    std::printf("digit %zu\nlogits", best);
    for (int8_t logit : logits) std::printf(" %d", logit);
    std::printf("\n");

    LiteRtDestroyTensorBuffer(output);
    LiteRtDestroyTensorBuffer(input);
    LiteRtDestroyCompiledModel(compiled);
    LiteRtDestroyOptions(options);
    LiteRtDestroyModel(model);
    LiteRtDestroyEnvironment(environment);
}
