#pragma once
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>

// What a peer has in common: tasks are flat JSON objects of numbers and plain strings, rounds are asked for on stdin, one "MS" a line.

inline std::string field(const std::string& task, const std::string& key) {
  const size_t at = task.find('"' + key + "\":");
  if (at == std::string::npos) return {};
  size_t from = at + key.size() + 3;
  const char end = task[from] == '"' ? '"' : task[from] == '[' ? ']' : ',';
  if (end != ',') ++from;
  size_t to = from;
  while (to < task.size() && task[to] != end && !(end == ',' && task[to] == '}')) ++to;
  return task.substr(from, to - from);
}

inline double number(const std::string& task, const std::string& key) { return std::atof(field(task, key).c_str()); }

inline double now_ns() {
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Answers every round with ns per unit; work does `units` of them a call.
template <typename Work>
void serve_rounds(const std::string& params, double units, const Work& work) {
  std::cout << "{\"params\":{" << params << "}}" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    const double started = now_ns(), until = started + std::atof(line.c_str()) * 1e6;
    double calls = 0, now = started;
    for (; now < until; now = now_ns(), ++calls) work();
    std::cout << (now - started) / calls / units << std::endl;
  }
}
