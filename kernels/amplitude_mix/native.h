// The entry points that every instruction set defines in its own namespace.
#pragma once

#include "../native/tensors.h"

namespace DAT_ISA {

void amplitude_mix(const dat::MixArguments& a);
void amplitude_mix_backward(const dat::MixArguments& a);

}  // namespace DAT_ISA
