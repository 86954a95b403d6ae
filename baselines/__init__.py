"""The agents that DisWM is compared with: one file each, and what several of them are made of.

- dv2_finetune.py, apv.py: what begins as a predictor of videos; from_videos.py: beginning so;
  stacked.py: APV's two RSSMs; video_bonus.py: its bonus
- contextwm.py: APV with a decoder that sees a frame of the video; context_model.py: its losses;
  context_networks.py: its networks
- sac.py, rad.py, curl.py, ted.py, svea.py: soft actor-critic from pixels, and what grew on it
- drqv2.py: DrQ-v2
- tdmpc2.py: TD-MPC2; tdmpc2_networks.py: what it is made of; mppi.py: its planner
- dreamerv3.py: DreamerV3; dreamerv3_model.py: its losses; dreamerv3_networks.py, dreamerv3_rssm.py:
  what it is made of; twohot.py, laprop.py, replayed_latents.py: parts for others, too
- hrssm.py: HRSSM; hrssm_model.py: its losses; hrssm_networks.py: what it is made of
- pixels.py: what the agents without a model share; stacking.py: observations out of single frames;
  augment.py: crops, random convolutions, overlays; pictures.py: what is drawn of them
- networks.py: their encoders, actors and critics
"""
