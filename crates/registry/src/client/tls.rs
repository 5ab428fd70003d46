//! What went wrong in a handshake, where somebody can do something about it.

use std::error::Error as StdError;
use std::io;

use rustls::CertificateError;
use rustls::Error as TlsError;

use crate::Error;

/// Returns an error for a request that failed for a reason that another try does not change.
pub(crate) fn failure(error: &reqwest::Error, host: &str) -> Option<Error> {
    let host = host.to_owned();
    let problem = find(error)?;
    match problem {
        TlsError::InvalidCertificate(CertificateError::UnknownIssuer) => {
            Some(Error::UnknownAuthority { host })
        }
        TlsError::InvalidCertificate(_) => {
            Some(Error::InvalidCertificate { host, source: problem.clone().into() })
        }
        // What came was no TLS.
        TlsError::InvalidMessage(_) => Some(Error::NoTls { host }),
        _ => None,
    }
}

/// Finds the error of TLS among the causes, some of which hide what they carry.
fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a TlsError> {
    let causes = std::iter::successors(Some(error), |&error| {
        let carried = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        carried.map(|carried| carried as &(dyn StdError + 'static)).or_else(|| error.source())
    });
    causes.into_iter().find_map(|cause| cause.downcast_ref())
}
