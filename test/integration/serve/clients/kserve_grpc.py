"""kserve's gRPC client."""

import grpc
from checks import TASK, array, check, expect, expect_outputs, refused, requests, run
from kserve import InferenceGRPCClient, InferInput, InferRequest

MODEL = TASK["model"]


def client():
    return InferenceGRPCClient(TASK["grpc"], timeout=20, retries=0)


def infer_request(request, binary=True, request_id=None, **options):
    inputs = []
    for tensor in request["inputs"]:
        made = InferInput(tensor["name"], tensor["shape"], tensor["datatype"])
        made.set_data_from_numpy(array(tensor), binary_data=binary)
        inputs.append(made)
    return InferRequest(model_name=request["model"], infer_inputs=inputs, request_id=request_id, **options)


def numpy_of(answer):
    return lambda name: answer.get_output_by_name(name).as_numpy()


@check
async def health():
    async with client() as own:
        expect(await own.is_server_live(), True, "live")
        expect(await own.is_server_ready(), True, "ready")
        expect(await own.is_model_ready(MODEL), True, "model")
        expect(await own.is_model_ready("nobody"), False, "other model")


@check
async def every_form_of_a_request():
    async with client() as own:
        for request in TASK["requests"]:
            for binary in (True, False):
                answer = await own.infer(infer_request(request, binary))
                expect_outputs(numpy_of(answer), request, f"binary {binary}")


@check
async def raw_and_typed_inputs_mixed():
    """The protocol forbids it; the client does it, when some inputs have binary data and others have not."""
    request = requests(MODEL)[0]
    asked = infer_request(request)
    for made, tensor in zip(asked.inputs, request["inputs"]):
        if tensor["name"].startswith("sum"):
            made.set_data_from_numpy(array(tensor), binary_data=False)
    async with client() as own:
        expect_outputs(numpy_of(await own.infer(asked)), request)


@check
async def ids_and_parameters():
    request = requests(MODEL)[0]
    async with client() as own:
        parameters = {"caller": "test", "n": 1, "yes": True}
        answer = await own.infer(infer_request(request, request_id="k-1", parameters=parameters))
        expect((answer.id, answer.model_name, answer.model_version), ("k-1", MODEL, "1"), "said")
        expect_outputs(numpy_of(answer), request)


@check
async def errors():
    request = requests(MODEL)[0]
    async with client() as own:
        with refused(grpc.RpcError, "nobody") as told:
            await own.infer(infer_request({**request, "model": "nobody"}))
        expect(told[0].code(), grpc.StatusCode.NOT_FOUND, "status")
        others = [each for each in request["inputs"] if each["name"] != "sum.values"]
        with refused(grpc.RpcError, "sum.values", "missing") as told:
            await own.infer(infer_request({**request, "inputs": others}))
        expect(told[0].code(), grpc.StatusCode.INVALID_ARGUMENT, "status")


run()
