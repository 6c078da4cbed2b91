// NetworkProgram of python/samestep/proof/network.py: logits = relu(batchnorm(x W1)) W2 + b2, some steps of Adam.
#pragma once

#include <cstdint>
#include <vector>

#include "inputs.h"
#include "run/jobs.h"
#include "run/plan.h"

struct NetworkShape {
  int rows, inputs, hidden, classes;
};

// The bytes of W1, gamma, beta, W2, b2, the running statistics and the losses. adam: row of the tables.
template <class T>
std::vector<std::uint8_t> run_network(samestep::Type type, NetworkShape n, int steps, int adam,
                                      const std::vector<double>& hyper) {
  using samestep::Index;
  using samestep::Matrix;
  const auto matrix = [](std::vector<T>& a, int columns) {
    return Matrix{a.data(), static_cast<Index>(a.size()) / columns, columns, columns, 1};
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
  std::vector<double> mean64(n.hidden), var64(n.hidden), losses;
  samestep::BatchNorm norm{};
  norm.samples = n.rows, norm.channels = n.hidden, norm.positions = 1, norm.eps = 1e-5;
  norm.x = before.data(), norm.gamma = gamma.data(), norm.beta = beta.data();
  norm.mean = mean.data(), norm.inv = inv.data(), norm.mean64 = mean64.data(), norm.var64 = var64.data();
  norm.dgamma = dgamma.data(), norm.dbeta = dbeta.data();
  for (int step = 0; step < steps; ++step) {
    run_product(type, product_of(matrix(x, n.inputs), matrix(W1, n.hidden), before.data()));
    norm.out = hidden.data();
    run_batchnorm(type, samestep::forward, true, norm);
    update_running(type, mean64.data(), var64.data(), n.hidden, n.rows, 0.1, 0, running_mean.data(),
                   running_var.data());
    samestep::Product scores = product_of(matrix(hidden, n.hidden), matrix(W2, n.classes), logits.data());
    scores.bias = b2.data();
    run_product(type, scores);
    losses.push_back(
        softmax_cross_entropy(type, {logits.data(), labels.data(), n.rows, n.classes, nullptr, d_logits.data()}));
    run_linear_backward(type, {matrix(d_logits, n.classes), Matrix{}, matrix(hidden, n.hidden), matrix(W2, n.classes),
                               d_hidden.data(), dW2.data(), db2.data()});
    norm.dy = d_hidden.data(), norm.out = d_before.data();
    run_batchnorm(type, samestep::backward, true, norm);
    run_linear_backward(type, {matrix(d_before, n.hidden), Matrix{}, matrix(x, n.inputs), matrix(W1, n.hidden), nullptr,
                               dW1.data(), unused.data()});
    plan.step(hyper.data());
  }
  std::vector<std::uint8_t> bytes;
  for (const auto& p : params) append_bytes(bytes, p);
  append_bytes(bytes, running_mean);
  append_bytes(bytes, running_var);
  append_bytes(bytes, losses);
  return bytes;
}
