// Fully connected layers, and the dot interaction, with a library: {"what": "fc", "dims": [..], "batch": N} or {"what": "interaction",
// "vectors": N, "dim": N, "batch": N}. Built once with PEER_ONEDNN and once with PEER_OPENBLAS.
#include <cmath>
#include <cstring>
#include <random>
#include <sstream>
#include <vector>

#include "rounds.h"
#if defined(PEER_ONEDNN)
#include <dnnl.hpp>
#include <unordered_map>
#else
#include <cblas.h>
#endif

namespace {

std::vector<float> random_floats(size_t count) {
  static std::mt19937 random(3);
  std::uniform_real_distribution<float> uniform(-0.1f, 0.1f);
  std::vector<float> values(count);
  for (float& value : values) value = uniform(random);
  return values;
}

std::vector<int64_t> integers(const std::string& list) {
  std::vector<int64_t> values;
  std::stringstream stream(list);
  for (std::string item; std::getline(stream, item, ',');) values.push_back(std::atoll(item.c_str()));
  return values;
}

#if defined(PEER_ONEDNN)

int run_fc(const std::vector<int64_t>& dims, int64_t batch) {
  using namespace dnnl;
  engine cpu(engine::kind::cpu, 0);
  stream queue(cpu);
  const auto plain = [](memory::dims shape) { return memory::desc(shape, memory::data_type::f32, memory::format_tag::ab); };
  const auto any = [](memory::dims shape) { return memory::desc(shape, memory::data_type::f32, memory::format_tag::any); };
  post_ops relu;
  relu.append_eltwise(1.0f, algorithm::eltwise_relu, 0.0f, 0.0f);
  primitive_attr attributes;
  attributes.set_post_ops(relu);
  std::vector<primitive> primitives;
  std::vector<std::unordered_map<int, memory>> arguments;
  memory input(plain({batch, dims[0]}), cpu);
  const auto fill = [](memory& to, const std::vector<float>& values) { std::memcpy(to.get_data_handle(), values.data(), values.size() * 4); };
  fill(input, random_floats(batch * dims[0]));
  for (size_t layer = 1; layer < dims.size(); ++layer) {
    const int64_t in = dims[layer - 1], out = dims[layer];
    // Activations in the layout that the primitive likes, too, apart from the first.
    const inner_product_forward::desc described(prop_kind::forward_inference, layer == 1 ? plain({batch, in}) : input.get_desc(), any({out, in}),
                                                memory::desc({out}, memory::data_type::f32, memory::format_tag::a), any({batch, out}));
    const inner_product_forward::primitive_desc chosen(described, attributes, cpu);
    memory weights(plain({out, in}), cpu), bias({{out}, memory::data_type::f32, memory::format_tag::a}, cpu);
    fill(weights, random_floats(out * in));
    fill(bias, random_floats(out));
    memory packed(chosen.weights_desc(), cpu), output(chosen.dst_desc(), cpu);
    reorder(weights, packed).execute(queue, weights, packed);
    primitives.push_back(inner_product_forward(chosen));
    arguments.push_back({{DNNL_ARG_SRC, input}, {DNNL_ARG_WEIGHTS, packed}, {DNNL_ARG_BIAS, bias}, {DNNL_ARG_DST, output}});
    input = output;
  }
  queue.wait();
  const dnnl_version_t* version = dnnl_version();
  serve_rounds("\"version\":\"" + std::to_string(version->major) + "." + std::to_string(version->minor) + "." + std::to_string(version->patch) + "\"",
               1, [&] {
                 for (size_t layer = 0; layer < primitives.size(); ++layer) primitives[layer].execute(queue, arguments[layer]);
                 queue.wait();
               });
  return 0;
}

int run_interaction(int64_t, int64_t, int64_t) { return 1; }

#else

std::string library() { return std::string("\"core\":\"") + openblas_get_corename() + "\""; }

int run_fc(const std::vector<int64_t>& dims, int64_t batch) {
  std::vector<std::vector<float>> weights, biases, values{random_floats(batch * dims[0])};
  for (size_t layer = 1; layer < dims.size(); ++layer) {
    weights.push_back(random_floats(dims[layer] * dims[layer - 1]));
    biases.push_back(random_floats(dims[layer]));
    values.push_back(random_floats(batch * dims[layer]));
  }
  serve_rounds(library(), 1, [&] {
    for (size_t layer = 1; layer < dims.size(); ++layer) {
      const int in = static_cast<int>(dims[layer - 1]), out = static_cast<int>(dims[layer]);
      float* y = values[layer].data();
      for (int64_t row = 0; row < batch; ++row) std::memcpy(y + row * out, biases[layer - 1].data(), out * 4);
      if (batch == 1) {
        cblas_sgemv(CblasRowMajor, CblasNoTrans, out, in, 1, weights[layer - 1].data(), in, values[layer - 1].data(), 1, 1, y, 1);
      } else {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(batch), out, in, 1, values[layer - 1].data(), in,
                    weights[layer - 1].data(), in, 1, y, out);
      }
      for (int64_t i = 0; i < batch * out; ++i) y[i] = y[i] > 0 ? y[i] : 0;
    }
  });
  return 0;
}

int run_interaction(int64_t vectors, int64_t dim, int64_t batch) {
  const std::vector<float> x = random_floats(batch * vectors * dim);
  const int64_t width = dim + vectors * (vectors - 1) / 2;
  std::vector<float> products(vectors * vectors), out(batch * width);
  const int n = static_cast<int>(vectors), k = static_cast<int>(dim);
  serve_rounds(library(), static_cast<double>(batch), [&] {
    for (int64_t item = 0; item < batch; ++item) {
      const float* from = x.data() + item * vectors * dim;
      float* to = out.data() + item * width;
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, n, k, 1, from, k, from, k, 0, products.data(), n);
      std::memcpy(to, from, dim * 4);
      to += dim;
      for (int i = 1; i < n; ++i) to = static_cast<float*>(std::memcpy(to, products.data() + i * n, i * 4)) + i;
    }
  });
  return 0;
}

#endif

}  // namespace

int main(int, char** arguments) {
  const std::string task = arguments[1];
  const int64_t batch = static_cast<int64_t>(number(task, "batch"));
  if (field(task, "what") == "fc") return run_fc(integers(field(task, "dims")), batch);
  return run_interaction(static_cast<int64_t>(number(task, "vectors")), static_cast<int64_t>(number(task, "dim")), batch);
}
