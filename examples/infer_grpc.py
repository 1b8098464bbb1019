"""ModelInfer over gRPC on the quickstart's model: python examples/infer_grpc.py [HOST:PORT]"""

import sys

import grpc

from modelmesh.pb.inference_pb2 import ModelInferRequest
from modelmesh.pb.inference_pb2_grpc import GRPCInferenceServiceStub

request = ModelInferRequest(model_name="sklearn-iris")
flowers = request.inputs.add(name="input-0", datatype="FP64", shape=[2, 4])
flowers.contents.fp64_contents.extend([6.8, 2.8, 4.8, 1.4, 6.0, 3.4, 4.5, 1.6])
with grpc.insecure_channel(sys.argv[1] if len(sys.argv) > 1 else "localhost:8033") as channel:
    answer = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
print(list(answer.outputs[0].contents.int64_contents))
