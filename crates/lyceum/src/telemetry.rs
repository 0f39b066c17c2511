//! Where a running server tells what it does: the log on standard error and, if asked, a collector of OpenTelemetry (OTLP over HTTP).

use crate::failure::misuse;
use miette::Result;
use std::io::{IsTerminal, stderr};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

/// As long as this lives, what happens is told. Dropping it sends what the collector does not have yet.
pub struct Telemetry {
    /// Sends what is left when it is dropped.
    #[cfg(feature = "otlp")]
    _traces: Option<otlp::Traces>,
}

impl Telemetry {
    /// Begins to tell what passes `filter`; to a collector, too, if there is one.
    ///
    /// # Errors
    /// A filter or an address that makes no sense; a collector, and a program that was built without this.
    pub fn start(filter: &str, collector: Option<&str>) -> Result<Self> {
        let filter = EnvFilter::try_new(filter).map_err(|error| misuse(format!("--log {error}")))?;
        let log = tracing_subscriber::fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal());
        let mut layers = vec![log.boxed()];
        let telemetry = Self::connect(collector, &mut layers)?;
        let begun = tracing_subscriber::registry().with(layers).with(filter).try_init();
        begun.map_err(|error| miette::miette!("the log cannot be set up: {error}"))?;
        Ok(telemetry)
    }

    #[cfg(feature = "otlp")]
    fn connect(collector: Option<&str>, layers: &mut Vec<Box<dyn Layer<Registry> + Send + Sync>>) -> Result<Self> {
        let traces = collector.map(otlp::Traces::to).transpose()?;
        layers.extend(traces.iter().map(otlp::Traces::layer));
        Ok(Self { _traces: traces })
    }

    #[cfg(not(feature = "otlp"))]
    fn connect(collector: Option<&str>, _: &mut Vec<Box<dyn Layer<Registry> + Send + Sync>>) -> Result<Self> {
        match collector {
            Some(_) => Err(misuse("--otlp needs a program built with it: cargo build --release --features otlp")),
            None => Ok(Self {}),
        }
    }
}

#[cfg(feature = "otlp")]
mod otlp {
    use super::{Layer, Registry, Result, misuse};
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_otlp::{SpanExporter, WithExportConfig};
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::trace::SdkTracerProvider;

    /// Where OTLP's traces go, below a collector's address.
    const PATH: &str = "/v1/traces";

    /// Spans on their way to a collector, from a thread that nobody waits for. If it cannot be reached they are lost.
    pub struct Traces(SdkTracerProvider);

    impl Traces {
        /// To the collector at this address, such as `http://127.0.0.1:4318`.
        ///
        /// # Errors
        /// It is none.
        pub fn to(collector: &str) -> Result<Self> {
            let endpoint = format!("{}{PATH}", collector.trim_end_matches('/').trim_end_matches(PATH));
            let exporter = SpanExporter::builder().with_http().with_endpoint(endpoint).build();
            let exporter = exporter.map_err(|error| misuse(format!("--otlp {collector}: {error}")))?;
            let resource = Resource::builder().with_service_name("lyceum").build();
            Ok(Self(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build()))
        }

        /// What takes spans in.
        pub fn layer(&self) -> Box<dyn Layer<Registry> + Send + Sync> {
            tracing_opentelemetry::layer().with_tracer(self.0.tracer("lyceum")).boxed()
        }
    }

    impl Drop for Traces {
        fn drop(&mut self) {
            // Nobody is left to hear of a collector that cannot be reached.
            let _ = self.0.shutdown();
        }
    }
}
