// NetworkProgram of python/samestep/proof/network.py: logits = relu(batchnorm(x W1)) W2 + b2, some steps of Adam.
#pragma once

#include <cstdint>
#include <vector>

#include "inputs.h"
#include "leaves.h"
#include "run/jobs.h"
#include "run/plan.h"

struct NetworkShape {
  int rows, inputs, hidden, classes;
};

// The bytes of W1, gamma, beta, W2, b2, the running statistics and the losses; with leaves, each of a range of the
// rows, no running statistics, and the losses of one leaf after the other. adam: row of the tables.
template <class T>
std::vector<std::uint8_t> run_network(samestep::Type type, NetworkShape n, int steps, int leaves, int adam,
                                      const std::vector<double>& hyper) {
  using samestep::Index;
  using samestep::Matrix;
  const auto matrix = [](std::vector<T>& a, int rows, int columns, int first = 0) {
    return Matrix{a.data() + first * columns, rows, columns, columns, 1};
  };
  std::vector<T> params[] = {finite_values<T>(n.inputs * n.hidden, 1), std::vector<T>(n.hidden, T(1)),
                             std::vector<T>(n.hidden), finite_values<T>(n.hidden * n.classes, 2),
                             std::vector<T>(n.classes)};
  auto& [W1, gamma, beta, W2, b2] = params;
  for (T& w : W1) w /= T(8);
  for (T& w : W2) w /= T(2);
  std::vector<T> grads[5], states[5][2];
  std::vector<samestep::Tensor> tensors;
  for (int p = 0; p < 5; ++p) {
    const std::size_t size = params[p].size();
    grads[p].resize(size), states[p][0].resize(size), states[p][1].resize(size);
    tensors.push_back({type, static_cast<Index>(size), params[p].data(), {}, grads[p].data()});
    for (int s = 0; s < 2; ++s) tensors[p].states[s] = states[p][s].data();
  }
  auto& [dW1, dgamma, dbeta, dW2, db2] = grads;
  Index counts[6] = {};
  samestep::Plan plan(adam, tensors, counts);

  std::vector<T> x = finite_values<T>(n.rows * n.inputs, 3);
  std::vector<Index> labels(n.rows);
  for (int i = 0; i < n.rows; ++i) labels[i] = (3 * i + 1) % n.classes;
  std::vector<T> before(n.rows * n.hidden), hidden(before.size()), d_hidden(before.size()), d_before(before.size());
  std::vector<T> logits(n.rows * n.classes), d_logits(logits.size()), unused(n.hidden);
  std::vector<T> mean(n.hidden), inv(n.hidden), running_mean(n.hidden), running_var(n.hidden, T(1));
  const int ranges = leaves ? leaves : 1;
  std::vector<double> mean64(n.hidden), var64(n.hidden), losses(ranges * steps);
  std::vector<std::vector<T>> sums[5];  // of each parameter, each leaf's gradient
  for (int p = 0; p < 5; ++p) sums[p].assign(leaves, grads[p]);
  samestep::BatchNorm norm{};
  norm.channels = n.hidden, norm.positions = 1, norm.eps = 1e-5;
  norm.x = before.data(), norm.gamma = gamma.data(), norm.beta = beta.data();
  norm.mean = mean.data(), norm.inv = inv.data(), norm.mean64 = mean64.data(), norm.var64 = var64.data();
  norm.dgamma = dgamma.data(), norm.dbeta = dbeta.data();
  for (int step = 0; step < steps; ++step) {
    for (int range = 0; range < ranges; ++range) {
      const int first = n.rows * range / ranges, rows = n.rows * (range + 1) / ranges - first;
      const Matrix inputs = matrix(x, rows, n.inputs, first), between = matrix(hidden, rows, n.hidden);
      const Matrix weights1 = matrix(W1, n.inputs, n.hidden), weights2 = matrix(W2, n.hidden, n.classes);
      run_product(type, product_of(inputs, weights1, before.data()));
      norm.samples = rows, norm.out = hidden.data();
      run_batchnorm(type, samestep::forward, true, norm);
      update_running(type, mean64.data(), var64.data(), n.hidden, rows, 0.1, 0, running_mean.data(),
                     running_var.data());
      samestep::Product scores = product_of(between, weights2, logits.data());
      scores.bias = b2.data();
      run_product(type, scores);
      losses[range * steps + step] = softmax_cross_entropy(
          type, {logits.data(), labels.data() + first, rows, n.classes, nullptr, d_logits.data()});
      run_linear_backward(type, {matrix(d_logits, rows, n.classes), Matrix{}, between, weights2, d_hidden.data(),
                                 dW2.data(), db2.data()});
      norm.dy = d_hidden.data(), norm.out = d_before.data();
      run_batchnorm(type, samestep::backward, true, norm);
      run_linear_backward(
          type, {matrix(d_before, rows, n.hidden), Matrix{}, inputs, weights1, nullptr, dW1.data(), unused.data()});
      for (int p = 0; p < 5 && leaves; ++p) sums[p][range] = grads[p];
    }
    for (int p = 0; p < 5 && leaves; ++p) {
      const Index size = grads[p].size();
      std::vector<T*> of_leaves;
      for (std::vector<T>& sum : sums[p]) of_leaves.push_back(sum.data());
      add_leaves_of(type, size, of_leaves);
      average_leaves(type, of_leaves[0], leaves, size, samestep::as_is, grads[p].data());
    }
    plan.step(hyper.data());
  }
  std::vector<std::uint8_t> bytes;
  for (const auto& p : params) append_bytes(bytes, p);
  if (!leaves) append_bytes(bytes, running_mean);
  if (!leaves) append_bytes(bytes, running_var);
  append_bytes(bytes, losses);
  return bytes;
}
