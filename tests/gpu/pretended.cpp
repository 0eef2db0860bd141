// A device "cuda" for a PyTorch that was built without CUDA.
//
// Its tensors are in host memory. An operator on them checks, as CUDA does, that all tensors are on one device; then
// the CPU's kernel runs on tensors that share their memory. pretended.py has the parts that are Python's.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/SDPBackend.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/distributed/c10d/reducer_timer.hpp>
#include <torch/library.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace {

using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
using c10::DispatchKey;
using c10::DispatchKeySet;

constexpr auto kCUDA = c10::DeviceType::CUDA;

// ---- Devices

thread_local DeviceIndex current_device = 0;

DeviceIndex device_count() {
  const char* count = std::getenv("PRETENDED_GPUS");
  return count == nullptr ? 1 : static_cast<DeviceIndex>(std::atoi(count));
}

void set_device(DeviceIndex index) {
  if (index >= 0) current_device = index;  // -1 is the current one
}

// There is one stream, in which everything is done at once: events have nothing to record.
struct Guard final : c10::impl::NoOpDeviceGuardImpl<kCUDA> {
  Device exchangeDevice(Device device) const override {
    Device before = getDevice();
    set_device(device.index());
    return before;
  }
  Device getDevice() const override { return Device(kCUDA, current_device); }
  void setDevice(Device device) const override { set_device(device.index()); }
  void uncheckedSetDevice(Device device) const noexcept override { set_device(device.index()); }
  DeviceIndex deviceCount() const noexcept override { return device_count(); }
  c10::Stream getStream(Device device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getDefaultStream(Device device) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return getStream(stream.device()); }
  void record(void**, const c10::Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeDevice(const DeviceIndex) const override {}
};
const c10::impl::DeviceGuardImplRegistrar guard_registrar(kCUDA, new Guard());

// ---- Memory

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    c10::DataPtr memory = c10::GetCPUAllocator()->allocate(size);
    memory.unsafe_set_device(Device(kCUDA, current_device));
    return memory;
  }
  void copy_data(void* target, const void* source, size_t size) const override { std::memcpy(target, source, size); }
};
Allocator allocator;
const int allocator_registered = (c10::SetAllocator(kCUDA, &allocator, /*priority=*/10), 0);

void drop_storage(void* storage) { delete static_cast<c10::Storage*>(storage); }

// Returns a storage of another device with the same memory: a new one, or the one that this storage was made from.
c10::Storage on_device(const c10::Storage& storage, Device device) {
  const c10::DataPtr& memory = storage.data_ptr();
  if (memory.get_deleter() == &drop_storage) {
    auto* origin = static_cast<c10::Storage*>(memory.get_context());
    if (origin->device().type() == device.type()) return *origin;
  }
  auto* origin = new c10::Storage(storage);
  c10::DataPtr shared(origin->mutable_data(), origin, &drop_storage, device);
  c10::Allocator* for_resizing = device.is_cuda() ? &allocator : c10::GetCPUAllocator();
  return c10::Storage(c10::Storage::use_byte_size_t(), origin->nbytes(), std::move(shared), for_resizing, true);
}

// Returns a tensor of another device with the same memory.
Tensor on_device(const Tensor& tensor, Device device) {
  if (!tensor.defined() || tensor.device() == device) return tensor;
  DispatchKeySet keys(device.is_cuda() ? DispatchKey::CUDA : DispatchKey::CPU);
  Tensor other =
      at::detail::make_tensor<c10::TensorImpl>(on_device(tensor.storage(), device), keys, tensor.dtype());
  other.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return other;
}

Tensor on_host(const Tensor& tensor) { return tensor.is_cuda() ? on_device(tensor, c10::kCPU) : tensor; }

// ---- Random numbers: a CPU's generator for each device

struct Generator final : at::CPUGeneratorImpl {
  explicit Generator(DeviceIndex index) {
    device_ = Device(kCUDA, index < 0 ? current_device : index);
    key_set_ = DispatchKeySet(DispatchKey::CUDA);
  }
};

at::Generator& default_generator(DeviceIndex index) {
  static auto* generators = [] {
    auto* made = new std::vector<at::Generator>();
    for (DeviceIndex i = 0; i < device_count(); i++) made->push_back(at::make_generator<Generator>(i));
    return made;
  }();
  return generators->at(index < 0 ? current_device : index);
}

// ---- What PyTorch wants to know of CUDA

struct Hooks final : at::CUDAHooksInterface {
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return device_count(); }
  DeviceIndex deviceCount() const override { return device_count(); }
  DeviceIndex current_device() const override { return ::current_device; }
  DeviceIndex getCurrentDevice() const override { return ::current_device; }
  void setCurrentDevice(DeviceIndex index) const override { set_device(index); }
  DeviceIndex exchangeDevice(DeviceIndex index) const override {
    return Guard().exchangeDevice(Device(kCUDA, index)).index();
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const override { return exchangeDevice(index); }
  const at::Generator& getDefaultGenerator(DeviceIndex index) const override { return default_generator(index); }
  at::Generator getNewGenerator(DeviceIndex index) const override { return at::make_generator<Generator>(index); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
  bool isPinnedPtr(const void*) const override { return true; }
  c10::Allocator* getCUDADeviceAllocator() const override { return &allocator; }
};

// `import torch` has taken the hooks of a build without CUDA for good, an object without members: the table of virtual
// functions in it is replaced.
void replace_hooks() {
  static Hooks hooks;
  static_assert(sizeof(Hooks) == sizeof(void*));
  auto* taken = const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks());
  std::memcpy(static_cast<void*>(taken), static_cast<const void*>(&hooks), sizeof(void*));
}

// ---- Operators

bool is_one_of(const std::string& name, std::initializer_list<const char*> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Raises CUDA's error if a tensor is on another device, unless CUDA takes it: a scalar of the CPU in arithmetic, and
// an index on the CPU.
void check_device(const c10::OperatorHandle& op, const Tensor& tensor, Device device, bool is_first) {
  if (tensor.device() == device || tensor.device().is_meta()) return;
  const std::string& name = op.operator_name().name;
  if (tensor.is_cpu()) {
    if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) return;
    const bool is_arithmetic =
        op.hasTag(at::Tag::pointwise) ||
        is_one_of(name, {"aten::fill_", "aten::masked_fill", "aten::masked_fill_", "aten::where",
                         "aten::_fused_adam_", "aten::_fused_adamw_", "aten::_fused_sgd_"});
    if (is_arithmetic && tensor.dim() == 0) return;
    const bool is_indexing = is_one_of(name, {"aten::index", "aten::_unsafe_index", "aten::index_put",
                                              "aten::index_put_", "aten::_index_put_impl_"});
    if (is_indexing && !is_first) return;
  }
  TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two devices, ", device,
              " and ", tensor.device(), "! (", name, " of a tensor ", tensor.sizes(), ")");
}

// Returns an argument with f applied to its tensors.
template <typename F>
c10::IValue map_tensors(const c10::IValue& value, F&& f) {
  if (value.isTensor()) return f(value.toTensor());
  if (!value.isTensorList() && !value.isOptionalTensorList()) return value;
  c10::List<c10::IValue> list = value.toList().copy();
  for (size_t i = 0; i < list.size(); i++) list.set(i, map_tensors(list.get(i), f));
  return list;
}

// Runs any operator: arguments are replaced by the host's, results by the device's.
void run_on_host(const c10::OperatorHandle& op, DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  auto arguments = torch::jit::last(*stack, schema.arguments().size());

  // 1. The device: of the first tensor on one, else the argument.
  std::optional<Device> device;
  for (const c10::IValue& argument : arguments)
    map_tensors(argument, [&](const Tensor& tensor) {
      if (!device && tensor.defined() && tensor.is_cuda()) device = tensor.device();
      return tensor;
    });
  for (const c10::IValue& argument : arguments)
    if (!device && argument.isDevice()) device = argument.toDevice();
  if (!device || !device->has_index()) device = Device(kCUDA, current_device);

  // 2. Tensors, device and generator of the host in the place of the device's.
  std::vector<std::pair<Tensor, Tensor>> pairs;  // of the device, and of the host
  std::vector<std::pair<at::Generator, at::Generator>> generators;
  for (size_t i = 0; i < schema.arguments().size(); i++) {
    c10::IValue& argument = (*stack)[stack->size() - schema.arguments().size() + i];
    bool is_first = i == 0;
    argument = map_tensors(argument, [&](const Tensor& tensor) {
      if (!tensor.defined()) return tensor;
      check_device(op, tensor, *device, is_first);
      is_first = false;
      if (!tensor.is_cuda()) return tensor;
      for (auto& [own, host] : pairs)
        if (own.is_same(tensor)) return host;
      pairs.emplace_back(tensor, on_host(tensor));
      return pairs.back().second;
    });
    if (argument.isDevice()) argument = Device(c10::kCPU);
    if (schema.arguments()[i].type()->str() == "Generator?") {
      auto own = argument.isNone() ? default_generator(device->index()) : argument.toGenerator();
      TORCH_CHECK(own.device().is_cuda(), "Expected a 'cuda' device type for generator but found 'cpu' (",
                  op.operator_name().name, ")");
      generators.emplace_back(own, at::make_generator<at::CPUGeneratorImpl>());
      generators.back().second.set_state(own.get_state());
      argument = generators.back().second;
    }
  }

  // 3. The CPU's kernel.
  op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), stack);
  for (auto& [own, host] : generators) own.set_state(host.get_state());
  for (auto& [own, host] : pairs) {  // an `out` may have another size now
    auto* tensor = own.unsafeGetTensorImpl();
    if (host.storage().data() != own.storage().data())
      tensor->set_storage_keep_dtype(on_device(host.storage(), *device));
    if (own.sizes() != host.sizes() || own.strides() != host.strides())
      tensor->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
  }

  // 4. Results on the device: of arguments changed in place, these.
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); i++)
    (*stack)[i] = map_tensors((*stack)[i], [&](const Tensor& tensor) {
      for (auto& [own, host] : pairs)
        if (host.is_same(tensor)) return own;
      return tensor.defined() && tensor.is_cpu() ? on_device(tensor, *device) : tensor;
    });
}

Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_generic(size, &allocator, DispatchKeySet(DispatchKey::CUDA), c10::dtype_or_default(dtype),
                                   format);
}

Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<Device> device, std::optional<bool>) {
  c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_strided_generic(size, stride, &allocator, DispatchKeySet(DispatchKey::CUDA),
                                           c10::dtype_or_default(dtype));
}

Tensor& copy_(Tensor& self, const Tensor& source, bool) {
  on_host(self).copy_(on_host(source));
  return self;
}

int64_t choose_attention(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, double, bool,
                         std::optional<double>, bool) {
  return static_cast<int64_t>(at::SDPBackend::math);
}

void resize_storage(const Tensor& view, int64_t size) {
  c10::OptionalDeviceGuard guard(view.device());
  c10::StorageImpl* storage = view.storage().unsafeGetStorageImpl();
  c10::DataPtr memory = allocator.allocate(size);
  std::memcpy(memory.get(), storage->data(), std::min<size_t>(size, storage->nbytes()));
  storage->set_data_ptr_noswap(std::move(memory));
  storage->set_nbytes(size);
}

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("copy_", copy_);
  library.impl("resize_", at::native::resize_);
  library.impl("set_.source_Storage", at::native::set_);
  library.impl("set_.source_Storage_storage_offset", at::native::set_storage_cpu_);
  library.impl("set_.source_Tensor", at::native::set_tensor_);
}

TORCH_LIBRARY(pretended, library) {
  library.def("install", [] {
    replace_hooks();
    at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(&choose_attention);
  });
  library.def("device_count", [] { return static_cast<int64_t>(device_count()); });
  library.def("current_device", [] { return static_cast<int64_t>(current_device); });
  library.def("set_device", [](int64_t index) { set_device(static_cast<DeviceIndex>(index)); });
  library.def("default_generator",
              [](int64_t index) { return default_generator(static_cast<DeviceIndex>(index)); });
  library.def("on_host", on_host);
  library.def("resize_storage", resize_storage);
}

}  // namespace

namespace c10d {

// DistributedDataParallel's clock, which has nothing to measure.
struct PretendedTimer final : Timer {
  explicit PretendedTimer(c10::Device) {}
  std::optional<int64_t> measureDifference(Event, Event) override { return std::nullopt; }
};
C10_REGISTER_TYPED_CLASS(TimerRegistry, c10::kCUDA, PretendedTimer)

}  // namespace c10d
