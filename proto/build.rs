//! Compiles the .proto files with protox: no `protoc` on the machine is needed.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "assent/v1/admin_service.proto",
        "assent/v1/peer_service.proto",
        "assent/v1/session.proto",
        "assent/v1/transaction_service.proto",
        "assent/v1/types.proto",
        "assent/v1/voter.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
