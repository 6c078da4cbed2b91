// SHA-256 (FIPS 180-4), for digests in a program that has no Python. Not for secrets.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

std::string sha256_hex(std::vector<std::uint8_t> data);
