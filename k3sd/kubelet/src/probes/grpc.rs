//! The gRPC health check, `grpc.health.v1.Health/Check`. Its two messages have one field each, so they are coded
//! here by hand instead of by generated types.

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use k8s_openapi::api::core::v1::GRPCAction;
use tonic::Status;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Endpoint;

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u8 = 1;
/// Tag of field 1, length-delimited (`HealthCheckRequest.service`).
const SERVICE_TAG: u8 = 0x0a;
/// Tag of field 1, varint (`HealthCheckResponse.status`).
const STATUS_TAG: u8 = 0x08;

/// Asks the health service on the pod's address.
pub(super) async fn check(action: &GRPCAction, ip: &str) -> Result<(), String> {
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let address = format!("http://{host}:{}", action.port);
    let endpoint = Endpoint::from_shared(address).map_err(|error| error.to_string())?;
    let channel = endpoint.connect().await.map_err(|error| format!("failed to connect service: {error}"))?;
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| error.to_string())?;
    let service = action.service.clone().unwrap_or_default();
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let reply = client.unary(tonic::Request::new(service), path, HealthCodec).await;
    match reply.map(tonic::Response::into_inner) {
        Ok(SERVING) => Ok(()),
        Ok(status) => Err(format!("service unhealthy (responded with status {status})")),
        Err(status) => Err(format!("error: health rpc failed: {}", status.message())),
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct HealthCodec;

impl Codec for HealthCodec {
    type Encode = String;
    type Decode = u8;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for HealthCodec {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, service: String, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        if service.is_empty() {
            return Ok(());
        }
        buffer.put_u8(SERVICE_TAG);
        let mut length = service.len();
        while length >= 0x80 {
            buffer.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        buffer.put_u8(length as u8);
        buffer.put_slice(service.as_bytes());
        Ok(())
    }
}

impl Decoder for HealthCodec {
    type Item = u8;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<u8>, Status> {
        let message: Bytes = buffer.copy_to_bytes(buffer.remaining());
        // An absent field is 0, UNKNOWN.
        Ok(Some(match message.as_ref() {
            [STATUS_TAG, status, ..] => *status,
            _ => 0,
        }))
    }
}
