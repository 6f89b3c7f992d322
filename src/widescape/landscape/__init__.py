"""Loss landscapes: certificates of convergence, predicted rates, curvature bounds, surfaces, edges of stability."""

from widescape.core.errors import NotCertifiable
from widescape.curvature import lanczos
from widescape.landscape.ball import BallEstimate, pl_on_ball
from widescape.landscape.catapult import CatapultRun, catapult_uv
from widescape.landscape.certificate import Certificate, CertificateStatus, certify_pl_star, two_layer_hessian_bound
from widescape.landscape.descent import Descent, DescentStatus, gradient_descent
from widescape.landscape.directions import (
    HessianDirections,
    ProjectedTrajectory,
    TrajectoryDirections,
    hessian_directions,
    project_trajectory,
    random_direction,
    trajectory_directions,
)
from widescape.landscape.edge import SharpnessTrace, Stability, stability_threshold, track_sharpness
from widescape.landscape.first_step import CertificateCheck, FirstCertifiedStep, check_certificate, first_certified_step
from widescape.landscape.flatness import Sharpness, sharpness
from widescape.landscape.interpolation import (
    GaussLength,
    Interpolation,
    MLIReport,
    gauss_length,
    interpolate,
    mli_report,
    weight_distance,
)
from widescape.landscape.linearity import LinearityGap, PathDiagnostics, linearity_gap, path_diagnostics
from widescape.landscape.nonconvexity import NonconvexityProbe, nonconvexity_probe
from widescape.landscape.norm_propagation import NetworkBound, layerwise_kernel, network_bound
from widescape.landscape.pl import PLTrajectory, pl_ratio, pl_trajectory
from widescape.landscape.prediction import (
    GDPrediction,
    RateReport,
    SGDStep,
    compare_gd_rate,
    predict_gd,
    sgd_step_size,
)
from widescape.landscape.relu_grams import du_width_bound, empirical_relu_gram, relu_gram, relu_gram_output
from widescape.landscape.second_derivative import HessianNorm, hessian_norm
from widescape.landscape.surfaces import LossSurface, Profile, surface_1d, surface_2d
from widescape.landscape.two_layer_relu import TwoLayerReLU, TwoLayerRun, train_two_layer
from widescape.landscape.width import WidthReport, width_scaling

empirical_gram = empirical_relu_gram  # its short name

__all__ = [
    "BallEstimate",
    "CatapultRun",
    "Certificate",
    "CertificateCheck",
    "CertificateStatus",
    "Descent",
    "DescentStatus",
    "FirstCertifiedStep",
    "GDPrediction",
    "GaussLength",
    "HessianDirections",
    "HessianNorm",
    "Interpolation",
    "LinearityGap",
    "LossSurface",
    "MLIReport",
    "NetworkBound",
    "NonconvexityProbe",
    "NotCertifiable",
    "PLTrajectory",
    "PathDiagnostics",
    "Profile",
    "ProjectedTrajectory",
    "RateReport",
    "SGDStep",
    "Sharpness",
    "SharpnessTrace",
    "Stability",
    "TrajectoryDirections",
    "TwoLayerReLU",
    "TwoLayerRun",
    "WidthReport",
    "catapult_uv",
    "certify_pl_star",
    "check_certificate",
    "compare_gd_rate",
    "du_width_bound",
    "empirical_gram",
    "empirical_relu_gram",
    "first_certified_step",
    "gauss_length",
    "gradient_descent",
    "hessian_directions",
    "hessian_norm",
    "interpolate",
    "lanczos",
    "layerwise_kernel",
    "linearity_gap",
    "mli_report",
    "network_bound",
    "nonconvexity_probe",
    "path_diagnostics",
    "pl_on_ball",
    "pl_ratio",
    "pl_trajectory",
    "predict_gd",
    "project_trajectory",
    "random_direction",
    "relu_gram",
    "relu_gram_output",
    "sgd_step_size",
    "sharpness",
    "stability_threshold",
    "surface_1d",
    "surface_2d",
    "track_sharpness",
    "train_two_layer",
    "trajectory_directions",
    "two_layer_hessian_bound",
    "weight_distance",
    "width_scaling",
]
