//! Calls beside the session, for what is asked rarely.

use assent_proto::v1::transaction_service_client::TransactionServiceClient;
use assent_proto::v1::{BeginRequest, BeginResponse, GetRequest, GetResponse};
use assent_transport::{DialError, Dialer, Target};
use tonic::transport::Channel;
use tonic::{Request, Status};

/// A connection for such calls, with the process's credentials.
pub(crate) struct Unary {
    target: Target,
    client: TransactionServiceClient<Channel>,
}

impl Unary {
    pub(crate) async fn dial(dialer: &Dialer, address: &str) -> Result<Self, DialError> {
        let target = dialer.target(address)?;
        let client = TransactionServiceClient::new(target.connect().await?);
        Ok(Self { target, client })
    }

    pub(crate) async fn begin(&mut self, request: BeginRequest) -> Result<BeginResponse, Status> {
        let request = self.authenticated(request);
        Ok(self.client.begin(request).await?.into_inner())
    }

    pub(crate) async fn get(&mut self, request: GetRequest) -> Result<GetResponse, Status> {
        let request = self.authenticated(request);
        Ok(self.client.get(request).await?.into_inner())
    }

    fn authenticated<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        if let Some(bearer) = self.target.bearer() {
            request.metadata_mut().insert("authorization", bearer);
        }
        request
    }
}
